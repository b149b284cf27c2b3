//! Each row of each seccomp profile, tried on the kernel: the call is made by a child without the filter and by a child
//! with it. Where the row allows, both must see the same; where it refuses, the filtered child must get the row's own
//! error and the other one something else, and the filter's listener is asked if and only if the row is recorded. Arguments
//! are bad descriptors and pointers, so that nothing happens.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

#[path = "support/bpf.rs"]
mod bpf;

use sandkeep::policy::seccomp::{Action, Condition, Instruction, Profile, Row, for_level, workload};
use sandkeep::spec::Level;
use sandkeep::sys::seccomp::{answer, asked, install, install_with_listener};
use std::arch::asm;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;

const BAD: u64 = u64::MAX;
const DIRT: u64 = 0xdead_beef_0000_0000;

/// What a parent sees of a child that makes one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Worked,
    Failed(i32),
    Exited(i32),
    Died(i32),
    StillWaiting,
}

/// How to make a call so that the child survives it.
#[derive(Clone, Copy)]
enum Manner {
    Plain,
    /// The call may return twice; its child leaves at once, without touching the stack that it may share.
    Forking,
    /// rt_sigreturn takes what lies on the stack for registers: the stack pointer is made bad, so that it faults.
    NoStack,
    /// int 0x80: the entrance for 32-bit programs.
    Int80,
}

#[derive(Clone, Copy)]
struct Call {
    number: u64,
    args: [u64; 6],
    manner: Manner,
    patience: Duration,
}

impl Call {
    fn new(number: u64, args: [u64; 6]) -> Call {
        Call { number, args, manner: Manner::Plain, patience: Duration::from_secs(60) }
    }
}

fn profiles() -> [&'static Profile; 5] {
    let level = |level, memfd_noexec| for_level(level, memfd_noexec).unwrap();
    [
        level(Level::Minimal, true),
        level(Level::Standard, true),
        level(Level::Strict, true),
        level(Level::Strict, false),
        workload(),
    ]
}

/// Whether this run may go on: the controls need a caller whom the kernel itself does not refuse.
fn as_root() -> bool {
    let root = unsafe { libc::geteuid() } == 0;
    let promised = std::env::var("SANDKEEP_EXPECT").is_ok_and(|list| list.split(',').any(|word| word == "root"));
    assert!(root || !promised, "SANDKEEP_EXPECT promises root");
    if !root {
        eprintln!("not run: the controls need root");
    }
    root
}

unsafe fn raw(call: &Call) -> i64 {
    let [a, b, c, d, e, f] = call.args;
    let result: i64;
    unsafe {
        match call.manner {
            Manner::Plain => asm!("syscall", inlateout("rax") call.number => result, in("rdi") a, in("rsi") b,
                in("rdx") c, in("r10") d, in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _),
            Manner::Forking => asm!("syscall", "test rax, rax", "jnz 2f", "mov eax, 60", "xor edi, edi", "syscall",
                "2:", inlateout("rax") call.number => result, inlateout("rdi") a => _, in("rsi") b, in("rdx") c,
                in("r10") d, in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _),
            Manner::NoStack => asm!("mov rsp, -4096", "syscall", "ud2", in("rax") call.number, options(noreturn)),
            Manner::Int80 => asm!("int 0x80", inlateout("rax") call.number => result, lateout("r8") _,
                lateout("r9") _, lateout("r10") _, lateout("r11") _),
        }
    }
    result
}

fn observe(filters: &[&[Instruction]], call: Call) -> Seen {
    observe_asked(filters, call).0
}

fn pipe() -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    let [reader, writer] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    (reader, writer)
}

/// What a program says of the call that is asked about: the error that its listener has to answer with.
fn error_of(program: &[Instruction], number: u32, args: &[u64; 6]) -> Option<u16> {
    let steps: Vec<_> = program.iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect();
    let returned = bpf::run(&steps, bpf::AUDIT_ARCH_X86_64, number, args);
    (returned & !0xffff == bpf::USER_NOTIF).then_some(returned as u16)
}

/// Also whether the listener of the first filter was asked.
fn observe_asked(filters: &[&[Instruction]], call: Call) -> (Seen, bool) {
    let asks = |program: &&[Instruction]| program.iter().any(|s| s.code == 0x06 && s.k & !0xffff == bpf::USER_NOTIF);
    let listening = filters.first().is_some_and(asks);
    let ((reader, writer), (go, told)) = (pipe(), pipe());
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", std::io::Error::last_os_error());
    if child == 0 {
        // Nothing here allocates or unwinds: the parent has threads.
        unsafe {
            // A session of its own: no terminal to hang up, no group to signal.
            libc::setsid();
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            for (n, filter) in filters.iter().enumerate() {
                if n == 0 && listening {
                    let Ok(listener) = install_with_listener(filter) else { libc::_exit(99) };
                    let number = i64::from(listener.into_raw_fd());
                    libc::write(writer.as_raw_fd(), (&raw const number).cast(), 8);
                    let mut byte = 0_u8;
                    libc::read(go.as_raw_fd(), (&raw mut byte).cast(), 1);
                } else if install(filter).is_err() {
                    libc::_exit(99);
                }
            }
            let result = raw(&call);
            libc::write(writer.as_raw_fd(), (&raw const result).cast(), 8);
            libc::syscall(libc::SYS_exit_group, 0);
            libc::abort();
        }
    }
    drop((writer, go));
    let read = || {
        let mut number = 0_i64;
        (unsafe { libc::read(reader.as_raw_fd(), (&raw mut number).cast(), 8) } == 8).then_some(number)
    };
    // The child's listener, under a number of this process's own.
    let listener = listening.then(read).flatten().map(|number| unsafe {
        let pidfd = OwnedFd::from_raw_fd(libc::syscall(libc::SYS_pidfd_open, child, 0) as i32);
        let listener = libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0);
        assert!(listener >= 0, "pidfd_getfd: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(listener as i32)
    });
    // A byte, not an end of file: a child of another thread may hold the other end, too.
    unsafe { libc::write(told.as_raw_fd(), b"g".as_ptr().cast(), 1) };
    let mut was_asked = false;
    let deadline = std::time::Instant::now() + call.patience;
    let waited = loop {
        let watched = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // A negative number is passed over.
        let mut wait = [watched(reader.as_raw_fd()), watched(listener.as_ref().map_or(-1, AsRawFd::as_raw_fd))];
        let left = deadline.saturating_duration_since(std::time::Instant::now()).as_millis() as i32;
        let waited = unsafe { libc::poll(wait.as_mut_ptr(), 2, left) };
        if waited == 0 || wait[0].revents != 0 {
            break waited;
        }
        if let (Some(listener), true) = (&listener, wait[1].revents & libc::POLLIN != 0)
            && let Some(one) = asked(listener.as_fd()).unwrap()
        {
            let error = error_of(filters[0], one.number, &one.args);
            assert_eq!((u64::from(one.number), one.args), (call.number, call.args), "another call than the one made");
            answer(listener.as_fd(), &one, error.expect("nothing is asked that the program does not ask")).unwrap();
            was_asked = true;
        }
    };
    if waited == 0 {
        unsafe { libc::kill(child, libc::SIGKILL) };
    }
    let mut status = 0;
    let got = if waited == 0 { None } else { read() };
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    let seen = match got {
        _ if waited == 0 => Seen::StillWaiting,
        Some(result) if (-4095..0).contains(&result) => Seen::Failed(-result as i32),
        Some(_) => Seen::Worked,
        None if libc::WIFSIGNALED(status) => Seen::Died(libc::WTERMSIG(status)),
        None => Seen::Exited(libc::WEXITSTATUS(status)),
    };
    (seen, was_asked)
}

/// The call a row's system call is tried with, before the row's conditions set some of its arguments.
fn harmless(name: &str, number: u32) -> Call {
    let mut call = Call::new(u64::from(number), [BAD; 6]);
    match name {
        "fork" | "vfork" => call.manner = Manner::Forking,
        // A bad stack pointer would be used; none means the caller's own.
        "clone" => (call.manner, call.args) = (Manner::Forking, [libc::SIGCHLD as u64, 0, BAD, BAD, BAD, BAD]),
        "rt_sigreturn" => call.manner = Manner::NoStack,
        // Waits for ever where it is allowed.
        "pause" => call.patience = Duration::from_millis(300),
        // All ones would be every process there is; this is a process that can not exist.
        "kill" => call.args = [i32::MAX as u64, 0, 0, 0, 0, 0],
        // All ones holds IPC_CREAT: these ask for an object that nobody made.
        "msgget" => call.args = [0x5a6b_7c8d, 0, 0, 0, 0, 0],
        "semget" | "shmget" => call.args = [0x5a6b_7c8d, 1, 0, 0, 0, 0],
        _ => {}
    }
    call
}

/// Registers for one condition: those that match, and those that do not.
fn registers(name: &str, condition: &Condition) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let mut matching: BTreeSet<u64> = condition.values.iter().map(|value| value.value).collect();
    let mut other: BTreeSet<u64> = match (name, condition.mask) {
        // The kernel's own answer to a family it lacks is the row's error: packet sockets it has.
        ("socket", None) if condition.name == "domain" => BTreeSet::from([libc::AF_PACKET as u64]),
        ("socketpair", None) => BTreeSet::from([2]),
        // Likewise for an option it lacks: this one, with zeroes, clears a policy that was never set.
        ("prctl", None) => BTreeSet::from([libc::PR_MCE_KILL as u64]),
        (_, None) => BTreeSet::from([0x7ffe]),
        (_, Some(mask)) => {
            let bits = (0..64).map(|bit| 1 << bit).filter(|bit| mask & bit != 0);
            bits.flat_map(|bit| matching.iter().map(move |value| value ^ bit)).collect()
        }
    };
    other.retain(|register| !condition.holds(*register));
    for set in [&mut matching, &mut other] {
        if !condition.wide {
            set.extend(set.clone().into_iter().map(|register| register | DIRT));
        }
    }
    (matching, other)
}

fn attempts(row: &Row, name: &str, number: u32) -> Vec<Call> {
    let mut all = vec![harmless(name, number)];
    for condition in row.args {
        let (matching, other) = registers(name, condition);
        let tries: Vec<u64> = matching.into_iter().chain(other).collect();
        let with = |call: &Call, register: u64| {
            let mut call = *call;
            call.args[usize::from(condition.arg)] = register;
            if name == "prctl" {
                // These two are only harmless, or only distinct from a refusal, with zeroes.
                let option = register as u32 as i32;
                if option == libc::PR_MCE_KILL || option == libc::PR_SET_SECUREBITS {
                    call.args[1..].fill(0);
                }
            }
            call
        };
        all = all.iter().flat_map(|call| tries.iter().map(|register| with(call, *register))).collect();
    }
    all
}

#[test]
fn every_row_does_on_the_kernel_what_it_says() {
    if !as_root() {
        return;
    }
    let mut controls = BTreeMap::new();
    let (mut tried, mut recorded, mut beyond_this_kernel) = (0, 0, BTreeSet::new());
    for profile in profiles() {
        for row in profile.rows {
            for syscall in row.syscalls {
                let mut refusals = BTreeMap::new();
                for call in attempts(row, syscall.name, syscall.number) {
                    let (action, rule) = profile.refusal(syscall.number, &call.args);
                    let control = *controls.entry((call.number, call.args)).or_insert_with(|| observe(&[], call));
                    let (filtered, asked) = observe_asked(&[profile.program], call);
                    let what = format!("{} {} {:x?}: {}", profile.name, syscall.name, call.args, row.reason);
                    tried += 1;
                    recorded += usize::from(asked);
                    assert_eq!(asked, rule.is_some(), "{what}");
                    match action {
                        Action::Allow => assert_eq!(filtered, control, "{what}"),
                        Action::Errno { number, .. } => {
                            let refused = Seen::Failed(i32::from(number));
                            assert_eq!(filtered, refused, "{what}");
                            // Errors by which a kernel says that it lacks something: there, filter and kernel look
                            // alike, so one call where they differ has to do.
                            let lacking = [libc::ENOSYS, libc::EAFNOSUPPORT, libc::EPROTONOSUPPORT];
                            let alike = lacking.contains(&i32::from(number)) && control == refused;
                            assert!(alike || control != refused, "the control too: {what}");
                            *refusals.entry(number).or_insert(false) |= !alike;
                        }
                    }
                }
                for (number, proven) in refusals {
                    if !proven {
                        assert_eq!(i32::from(number), libc::ENOSYS, "{}: not proven: {}", profile.name, row.reason);
                        beyond_this_kernel.insert(syscall.name);
                    }
                }
            }
        }
    }
    println!("{tried} calls tried, {recorded} recorded; not in this kernel: {beyond_this_kernel:?}");
    // Every supported kernel has clone3, the one call of which ENOSYS is a promise.
    assert!(!beyond_this_kernel.contains("clone3"));
}

#[test]
fn a_call_that_no_row_names_gets_the_default() {
    // io_setup is in every kernel and only minimal names it; 1000 is in none.
    for profile in profiles().into_iter().filter(|profile| profile.default != Action::Allow) {
        assert_eq!(
            observe_asked(&[profile.program], Call::new(1000, [BAD; 6])),
            (Seen::Failed(libc::ENOSYS), true),
            "{}",
            profile.name
        );
    }
    let [_, standard, ..] = profiles();
    let io_setup = Call::new(libc::SYS_io_setup as u64, [BAD; 6]);
    assert_eq!(observe(&[], io_setup), Seen::Failed(libc::EFAULT));
    assert_eq!(observe(&[standard.program], io_setup), Seen::Failed(libc::ENOSYS));
}

#[test]
fn dirty_upper_halves_reach_the_kernel_as_clean_ones() {
    // The control for every dirty register above: the kernel itself ignores what the filter ignores.
    let unix = [libc::AF_UNIX as u64 | DIRT, libc::SOCK_STREAM as u64 | DIRT, DIRT, BAD, BAD, BAD];
    assert_eq!(observe(&[], Call::new(libc::SYS_socket as u64, unix)), Seen::Worked);
    let name = [libc::PR_GET_DUMPABLE as u64 | DIRT, 0, 0, 0, 0, 0];
    assert_eq!(observe(&[], Call::new(libc::SYS_prctl as u64, name)), Seen::Worked);
    let mut fork = harmless("clone", libc::SYS_clone as u32);
    fork.args[0] |= DIRT;
    assert_eq!(observe(&[], fork), Seen::Worked);
    if as_root() {
        fork.args[0] |= libc::CLONE_NEWUTS as u64;
        assert_eq!(observe(&[], fork), Seen::Worked);
        for profile in &profiles()[..4] {
            assert_eq!(observe(&[profile.program], fork), Seen::Failed(libc::EPERM), "{}", profile.name);
        }
    }
}

#[test]
fn x32_calls_do_not_exist() {
    for profile in profiles() {
        for number in [0, 39, 41, 56, 57, 101, 165, 272, 317, 321, 512, 520, 521, 547] {
            let call = Call::new(number | 0x4000_0000, [BAD; 6]);
            assert_eq!(observe(&[profile.program], call), Seen::Failed(libc::ENOSYS), "{} {number}", profile.name);
        }
    }
}

#[test]
fn the_32_bit_entrance_kills() {
    // getpid in the 32-bit table. A kernel without that table answers with SIGSEGV and needs no filter for it.
    let call = Call { manner: Manner::Int80, ..Call::new(20, [0; 6]) };
    let died = match observe(&[], call) {
        Seen::Worked => Seen::Died(libc::SIGSYS),
        control => control,
    };
    assert!(matches!(died, Seen::Died(_)), "{died:?}");
    for profile in profiles() {
        assert_eq!(observe(&[profile.program], call), died, "{}", profile.name);
    }
}

#[test]
fn both_filters_together_leave_a_workload_no_way_to_change_them() {
    for level in &profiles()[..4] {
        let both = [level.program, workload().program];
        let seen = |number: i64, args: [u64; 6]| observe(&both, Call::new(number as u64, args));
        // Asking for Landlock's version, and whether an action exists, works with the level's filter alone.
        let version = [0, 0, 1, 0, 0, 0];
        let version_alone = Call::new(libc::SYS_landlock_create_ruleset as u64, version);
        assert_eq!(observe(&both[..1], version_alone), observe(&[], version_alone));
        let action = 0x7fff_0000_u32;
        let available = [2, 0, (&raw const action) as u64, 0, 0, 0];
        assert_eq!(observe(&both[..1], Call::new(libc::SYS_seccomp as u64, available)), Seen::Worked);

        let refused = Seen::Failed(libc::EPERM);
        assert_eq!(seen(libc::SYS_landlock_create_ruleset, version), refused);
        assert_eq!(seen(libc::SYS_seccomp, available), refused);
        assert_eq!(seen(libc::SYS_seccomp, [1, 0, BAD, 0, 0, 0]), refused);
        assert_eq!(seen(libc::SYS_prctl, [libc::PR_SET_SECCOMP as u64 | DIRT, 2, BAD, 0, 0, 0]), refused);
        assert_eq!(seen(libc::SYS_unshare, [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0]), refused);
        assert_eq!(seen(libc::SYS_setns, [BAD; 6]), refused);
        let mut call = harmless("clone", libc::SYS_clone as u32);
        assert_eq!(observe(&both, call), Seen::Worked);
        call.args[0] |= libc::CLONE_NEWUSER as u64;
        assert_eq!(observe(&both, call), refused);
        assert_eq!(seen(libc::SYS_clone3, [BAD; 6]), Seen::Failed(libc::ENOSYS));
        // The second filter hides none of them from the listener of the first.
        let unshare = Call::new(libc::SYS_unshare as u64, [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0]);
        assert_eq!(observe_asked(&both, unshare), (refused, true));
        let filter = Call::new(libc::SYS_prctl as u64, [libc::PR_SET_SECCOMP as u64 | DIRT, 2, BAD, 0, 0, 0]);
        assert_eq!(observe_asked(&both, filter), (refused, true));
        assert_eq!(observe_asked(&both, call), (refused, true));
        // A third filter: the child leaves with the mark of a failed installation.
        let third = [both[0], both[1], both[1]];
        assert_eq!(observe(&third, Call::new(libc::SYS_getpid as u64, [0; 6])), Seen::Exited(99));
    }
}
