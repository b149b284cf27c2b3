//! Names that a profile may use for error numbers and argument values.

/// The number of an error name.
pub fn errno(name: &str) -> Option<u16> {
    let number = match name {
        "EAFNOSUPPORT" => libc::EAFNOSUPPORT,
        "EINVAL" => libc::EINVAL,
        "ENOSYS" => libc::ENOSYS,
        "EOPNOTSUPP" => libc::EOPNOTSUPP,
        "EPERM" => libc::EPERM,
        "EPROTONOSUPPORT" => libc::EPROTONOSUPPORT,
        _ => return None,
    };
    u16::try_from(number).ok()
}

macro_rules! table {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), libc::$name as u64)),*] };
}

const FROM_LIBC: &[(&str, u64)] = table![
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    AF_UNIX,
    IPPROTO_MPTCP,
    IPPROTO_SCTP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    MSG_FASTOPEN,
    NETLINK_ROUTE,
    PR_CAPBSET_DROP,
    PR_CAPBSET_READ,
    PR_CAP_AMBIENT,
    PR_GET_CHILD_SUBREAPER,
    PR_GET_DUMPABLE,
    PR_GET_KEEPCAPS,
    PR_GET_NAME,
    PR_GET_NO_NEW_PRIVS,
    PR_GET_PDEATHSIG,
    PR_GET_SECCOMP,
    PR_GET_SECUREBITS,
    PR_GET_SPECULATION_CTRL,
    PR_GET_THP_DISABLE,
    PR_GET_TID_ADDRESS,
    PR_GET_TIMERSLACK,
    PR_GET_TIMING,
    PR_GET_TSC,
    PR_MCE_KILL_GET,
    PR_SET_CHILD_SUBREAPER,
    PR_SET_DUMPABLE,
    PR_SET_KEEPCAPS,
    PR_SET_MM,
    PR_SET_NAME,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    PR_SET_PTRACER,
    PR_SET_SECCOMP,
    PR_SET_SECUREBITS,
    PR_SET_THP_DISABLE,
    PR_SET_TIMERSLACK,
    PR_SET_VMA,
    PR_TASK_PERF_EVENTS_DISABLE,
    PR_TASK_PERF_EVENTS_ENABLE,
    SOCK_DGRAM,
    SOCK_RAW,
    SOCK_STREAM,
    SOL_SOCKET,
    SO_ATTACH_BPF,
    SO_ATTACH_FILTER,
    SO_ATTACH_REUSEPORT_CBPF,
    SO_ATTACH_REUSEPORT_EBPF,
    S_IFBLK,
    S_IFCHR,
    S_IFMT,
    TCP_FASTOPEN,
    TCP_FASTOPEN_CONNECT,
    TCP_FASTOPEN_KEY,
    TCP_FASTOPEN_NO_COOKIE,
    TCP_ULP,
    TIOCCONS,
    TIOCLINUX,
    TIOCSTI,
    CLONE_NEWNS,
    CLONE_NEWCGROUP,
    CLONE_NEWUTS,
    CLONE_NEWIPC,
    CLONE_NEWUSER,
    CLONE_NEWPID,
    CLONE_NEWNET,
];

/// Named in the kernel's headers but not in libc for this target.
const FROM_KERNEL: &[(&str, u64)] = &[
    // include/linux/net.h: the bits of socket's second argument that are its type.
    ("SOCK_TYPE_MASK", 0xf),
    // include/linux/net.h: an old name for packet sockets, reached through AF_INET.
    ("SOCK_PACKET", 10),
    // include/uapi/linux/in.h
    ("IPPROTO_SMC", 256),
    // include/uapi/asm-generic/ioctls.h
    ("TIOCSETD", 0x5423),
    ("TIOCVHANGUP", 0x5437),
    // include/uapi/linux/seccomp.h
    ("SECCOMP_SET_MODE_FILTER", 1),
    ("SECCOMP_GET_ACTION_AVAIL", 2),
    ("SECCOMP_GET_NOTIF_SIZES", 3),
    // include/uapi/linux/prctl.h
    ("PR_SET_SYSCALL_USER_DISPATCH", 59),
    ("PR_SET_MDWE", 65),
    ("PR_GET_MDWE", 66),
    ("PR_GET_AUXV", 0x4155_5856),
    ("PR_FUTEX_HASH", 78),
    // include/uapi/linux/personality.h
    ("PER_LINUX", 0),
    ("PER_LINUX32", 8),
    ("UNAME26", 0x0002_0000),
    ("PER_QUERY", 0xffff_ffff),
];

/// A value written as `NAME`, `NAME|NAME`, or a number in decimal or hexadecimal.
pub fn value(text: &str) -> Option<u64> {
    text.split('|').map(|part| single(part.trim())).try_fold(0, |sum, part| Some(sum | part?))
}

fn single(text: &str) -> Option<u64> {
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok();
    }
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return text.parse().ok();
    }
    // AF_NETLINK and its like are int in libc: what a caller passes is their low 32 bits.
    FROM_LIBC.iter().chain(FROM_KERNEL).find(|(name, _)| *name == text).map(|(_, value)| value & 0xffff_ffff)
}
