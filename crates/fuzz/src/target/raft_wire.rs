//! Messages between controllers: `raft::wire`.

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use openraft_rt_tokio::TokioRuntime;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::alloc;
use crate::input::Input;
use crate::raft::types::{SnapshotMeta, TypeConfig, Vote};
use crate::raft::wire::{self, Chunk, ChunkReply, Hello, HelloReply, Message, Refusal};

type Types = TypeConfig<TokioRuntime>;

/// The first byte chooses what the body is taken for; the rest is the message.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let kind = input.byte();
    let whole = input.rest();
    let bytes_max = 128 * 1024 + 128 * whole.len();
    alloc::within(bytes_max, "a message", || {
        let Ok(message) = wire::decode(whole) else { return };
        match kind % 10 {
            0 => body::<AppendEntriesRequest<Types>>(&message),
            1 => body::<VoteRequest<Types>>(&message),
            2 => body::<TransferLeaderRequest<Types>>(&message),
            3 => body::<Chunk<(Vote, SnapshotMeta)>>(&message),
            4 => body::<Hello>(&message),
            5 => body::<Result<AppendEntriesResponse<Types>, Refusal>>(&message),
            6 => body::<Result<VoteResponse<Types>, Refusal>>(&message),
            7 => body::<Result<ChunkReply<SnapshotResponse<Types>>, Refusal>>(&message),
            8 => body::<Result<HelloReply, Refusal>>(&message),
            _ => body::<Result<(), Refusal>>(&message),
        }
    });
}

fn body<T: Serialize + DeserializeOwned>(message: &Message<'_>) {
    let Ok(body) = message.body::<T>() else { return };
    let written = wire::encode(&message.header, &body, message.raw).expect("it can be written");
    let again = wire::decode(&written).expect("what was written can be read");
    assert_eq!(again.header, message.header);
    assert_eq!(again.raw, message.raw);
    let same: T = again.body().expect("what was written can be read");
    // openraft's messages cannot be compared, their text can.
    let text = |body: &T| serde_json::to_vec(body).expect("it can be written");
    assert_eq!(text(&same), text(&body), "a message changes on its way");
}
