//! Unix sockets that carry whole packets (`SOCK_SEQPACKET`) and descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::cmsg_space;
use nix::sys::socket::{
    self, AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag,
    SockType, UnixAddr,
};

const FLAGS: SockFlag = SockFlag::SOCK_CLOEXEC.union(SockFlag::SOCK_NONBLOCK);

/// Connections that wait to be accepted.
const BACKLOG: i32 = 8;

fn new_socket() -> io::Result<OwnedFd> {
    Ok(socket::socket(AddressFamily::Unix, SockType::SeqPacket, FLAGS, None)?)
}

/// Listens at `path`, where nothing may be. The file mode comes from the umask.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    let fd = new_socket()?;
    socket::bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    socket::listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd)
}

/// Accepts a connection.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let fd = socket::accept4(listener.as_raw_fd(), FLAGS)?;
    // SAFETY: the kernel just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Connects to the socket at `path` without waiting.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let fd = new_socket()?;
    socket::connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd)
}

/// Two connected ends.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    // Blocking: the init waits on its end. The guard's calls all say "do not wait" themselves.
    let flags = SockFlag::SOCK_CLOEXEC;
    Ok(socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

/// The user at the other end of a connection.
pub fn peer_uid(fd: &OwnedFd) -> io::Result<u32> {
    Ok(socket::getsockopt(fd, socket::sockopt::PeerCredentials)?.uid())
}

/// Sends one packet, with a descriptor beside it if given. Never waits: fails with `WouldBlock`.
pub fn send(fd: BorrowedFd<'_>, packet: &[u8], pass: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let sent = match pass {
        // The common case allocates nothing.
        None => socket::send(fd.as_raw_fd(), packet, flags)?,
        Some(pass) => {
            let fds = [pass.as_raw_fd()];
            let rights = [ControlMessage::ScmRights(&fds)];
            let iov = [IoSlice::new(packet)];
            socket::sendmsg::<()>(fd.as_raw_fd(), &iov, &rights, flags, None)?
        }
    };
    if sent == packet.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Takes one packet into `buf` and drops descriptors that come with it. Never waits. Returns its
/// length, which exceeds `buf` where the packet was cut; zero is the end of the connection.
pub fn recv(fd: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
    Ok(socket::recv(fd.as_raw_fd(), buf, flags)?)
}

/// Takes one packet into `buf`, and the descriptor that comes with it. Never waits. Returns its
/// length, cut to `buf`; zero is the end of the connection.
pub fn recv_with_fd(fd: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut control = cmsg_space!([RawFd; 1]);
    let mut iov = [IoSliceMut::new(buf)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = socket::recvmsg::<()>(fd.as_raw_fd(), &mut iov, Some(&mut control), flags)?;
    let mut passed = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            for fd in fds {
                // SAFETY: the kernel just made this descriptor for us alone. One that is not
                // kept is closed here.
                passed = Some(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
    Ok((message.bytes, passed))
}
