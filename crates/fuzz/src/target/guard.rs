//! Packets between the agent and a guard, which may be of another version: `guard::protocol`.

use crate::alloc;
use crate::guard::protocol::{PACKET_BYTES_MAX, Reply, Request};
use crate::guard::status::TreeState;

/// The packet, taken for a request and for a reply.
pub fn run(bytes: &[u8]) {
    let packet = bytes.get(..PACKET_BYTES_MAX).unwrap_or(bytes);
    let bytes_max = 16 * 1024 + 64 * packet.len();
    let mut written = Vec::new();
    let request = alloc::within(bytes_max, "a request", || Request::decode(packet));
    if let Ok((id, request)) = request {
        request.encode(id, &mut written);
        // Requests are strict: there is one way to write each.
        assert_eq!(written, packet, "{request:?}");
    }
    let reply = alloc::within(bytes_max, "a reply", || Reply::decode(packet));
    if let Ok((id, reply)) = reply {
        reply.encode(id, &mut written);
        assert_eq!(Reply::decode(&written), Ok((id, reply.clone())));
        // Bytes of later versions may follow.
        assert!(packet.starts_with(&written), "{reply:?}");
        assert_ne!(reply, Reply::Event(TreeState::Lost), "a guard never says that");
    }
}
