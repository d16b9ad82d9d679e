//! Generated protobuf code, and the little that is written by hand around it.
//!
//! Owns the modules that `build.rs` makes of `proto/` ([`v1`] is the public API), the text of its
//! enums, and the envelope of error details. Imports nothing of the crate.

#[allow(missing_docs, clippy::all, clippy::disallowed_methods, clippy::disallowed_types)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/packages.rs"));
}

pub use generated::quorate::*;

/// Descriptors of every `.proto` file, for the reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Enums of the public API as short lower-case text, such as "promoting": the form of tables, JSON
/// and YAML. A number that this version does not know becomes "unknown-" and the number.
pub mod text {
    use serde::Serializer;

    use super::v1;

    macro_rules! enum_text {
        ($($(#[$doc:meta])* $name:ident: $type:ident, $prefix:literal;)*) => {
            /// An enum of the public API.
            pub trait Text: TryFrom<i32> {
                /// What all its values begin with in the `.proto` file.
                const PREFIX: &'static str;
                /// The name in the `.proto` file.
                fn proto_name(&self) -> &'static str;
            }
            $(
                impl Text for v1::$type {
                    const PREFIX: &'static str = $prefix;
                    fn proto_name(&self) -> &'static str {
                        self.as_str_name()
                    }
                }

                $(#[$doc])*
                pub fn $name<S: Serializer>(value: &i32, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.serialize_str(&of::<v1::$type>(*value))
                }
            )*
        };
    }

    enum_text! {
        /// Writes a [`v1::ClusterPhase`].
        cluster_phase: ClusterPhase, "CLUSTER_PHASE_";
        /// Writes a [`v1::TenureStage`].
        tenure_stage: TenureStage, "TENURE_STAGE_";
        /// Writes a [`v1::Failsafe`].
        failsafe: Failsafe, "FAILSAFE_";
        /// Writes a [`v1::CloseReason`].
        close_reason: CloseReason, "CLOSE_REASON_";
        /// Writes a [`v1::MemberRole`].
        member_role: MemberRole, "MEMBER_ROLE_";
        /// Writes a [`v1::Reachability`].
        reachability: Reachability, "REACHABILITY_";
        /// Writes a [`v1::Fencing`].
        fencing: Fencing, "FENCING_";
        /// Writes a [`v1::DataState`].
        data_state: DataState, "DATA_STATE_";
        /// Writes a [`v1::SyncMode`].
        sync_mode: SyncMode, "SYNC_MODE_";
        /// Writes a [`v1::SpaceLevel`].
        space_level: SpaceLevel, "SPACE_LEVEL_";
        /// Writes a [`v1::Severity`].
        severity: Severity, "SEVERITY_";
        /// Writes a [`v1::OperationKind`].
        operation_kind: OperationKind, "OPERATION_KIND_";
        /// Writes a [`v1::OperationState`].
        operation_state: OperationState, "OPERATION_STATE_";
    }

    /// The text of an enum's number.
    pub fn of<E: Text>(value: i32) -> String {
        let Ok(known) = E::try_from(value) else { return format!("unknown-{value}") };
        let name = known.proto_name();
        name.strip_prefix(E::PREFIX).unwrap_or(name).to_ascii_lowercase().replace('_', "-")
    }
}

/// Error details as every gRPC program knows them: what `grpc-status-details-bin` holds.
pub mod details {
    use prost::Message;

    use super::v1::ErrorInfo;

    /// `google.rpc.Status` of googleapis, which is small enough not to be fetched.
    #[derive(Clone, PartialEq, Message)]
    pub struct Status {
        /// The gRPC code.
        #[prost(int32, tag = "1")]
        pub code: i32,
        /// The message of the status.
        #[prost(string, tag = "2")]
        pub message: String,
        /// The details.
        #[prost(message, repeated, tag = "3")]
        pub details: Vec<prost_types::Any>,
    }

    const TYPE_URL: &str = "type.googleapis.com/quorate.v1.ErrorInfo";

    /// The bytes of a `google.rpc.Status` with `infos` as details.
    pub fn encode(code: i32, message: &str, infos: &[ErrorInfo]) -> Vec<u8> {
        let details = infos
            .iter()
            .map(|i| prost_types::Any { type_url: TYPE_URL.to_owned(), value: i.encode_to_vec() })
            .collect();
        Status { code, message: message.to_owned(), details }.encode_to_vec()
    }

    /// The details of ours in a `google.rpc.Status`; empty where there are none, or the bytes are
    /// something else.
    pub fn decode(bytes: &[u8]) -> Vec<ErrorInfo> {
        let Ok(status) = Status::decode(bytes) else { return Vec::new() };
        let ours = status.details.into_iter().filter(|d| d.type_url == TYPE_URL);
        ours.filter_map(|d| ErrorInfo::decode(d.value.as_slice()).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enums_have_short_text() {
        assert_eq!(text::of::<v1::MemberRole>(v1::MemberRole::Promoting as i32), "promoting");
        assert_eq!(text::of::<v1::Fencing>(v1::Fencing::PidNamespace as i32), "pid-namespace");
        assert_eq!(text::of::<v1::Fencing>(99), "unknown-99");
        let member = v1::Member { role: v1::MemberRole::Standby as i32, ..Default::default() };
        let json = serde_json::to_value(&member).unwrap();
        assert_eq!(json["role"], "standby");
        assert_eq!(json["reachability"], "unspecified");
    }

    #[test]
    fn kinds_of_events_are_named_in_json() {
        let kind = v1::event::Kind::Activated(v1::Activated { member: "a".to_owned() });
        let event = v1::Event { id: 3, kind: Some(kind), ..Default::default() };
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["kind"]["activated"]["member"], "a");
    }

    #[test]
    fn details_round_trip_and_foreign_ones_are_ignored() {
        let info = v1::ErrorInfo { rule: "epoch.current".to_owned(), ..Default::default() };
        let bytes = details::encode(10, "moved on", std::slice::from_ref(&info));
        assert_eq!(details::decode(&bytes), vec![info]);
        assert!(details::decode(b"\xff\xff nonsense").is_empty());
        assert!(details::decode(b"").is_empty());
    }
}
