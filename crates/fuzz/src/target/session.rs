//! Messages between agents and controllers: `session::wire`.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::alloc;
use crate::domain::record::MemberRecord;
use crate::input::Input;
use crate::session::wire::{
    PollReply, PollRequest, RegisterReply, RegisterRequest, RenewReply, RenewRequest, ReportReply,
    ReportRequest, SessionError, decode, encode,
};

/// The first byte chooses the message, the rest is its body.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let kind = input.byte();
    let body = input.rest();
    match kind % 9 {
        0 => message::<RegisterRequest>(body),
        1 => message::<ReportRequest>(body),
        2 => message::<PollRequest>(body),
        3 => message::<RenewRequest>(body),
        4 => message::<Result<RegisterReply, SessionError>>(body),
        5 => message::<Result<ReportReply, SessionError>>(body),
        6 => message::<Result<PollReply, SessionError>>(body),
        7 => message::<Result<RenewReply, SessionError>>(body),
        // Not a message: what a member remembers of itself has the same form.
        _ => message::<MemberRecord>(body),
    }
}

fn message<T: Serialize + DeserializeOwned + PartialEq + Debug>(body: &[u8]) {
    let bytes_max = 128 * 1024 + 128 * body.len();
    let read = alloc::within(bytes_max, "a message", || decode::<T>(body));
    let Ok(message) = read else { return };
    let written = encode(&message).expect("what was read can be written");
    let again: T = decode(&written).expect("what was written can be read");
    assert_eq!(message, again, "a message changes on its way");
}
