//! The programs against the rows: every number, every condition, by an interpreter of the test's own.

use super::*;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

#[path = "../../../tests/support/bpf.rs"]
mod bpf;

const PROFILES: [&Profile; 5] = [&MINIMAL, &STANDARD, &STRICT, &STRICT_NO_MEMFD, &WORKLOAD];
const LEVELS: [&Profile; 4] = [&MINIMAL, &STANDARD, &STRICT, &STRICT_NO_MEMFD];
const DIRT: u64 = 0xdead_beef_0000_0000;

fn steps(profile: &Profile) -> Vec<(u16, u8, u8, u32)> {
    profile.program.iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect()
}

fn word(action: Action, recorded: bool) -> u32 {
    match action {
        Action::Allow => bpf::ALLOW,
        Action::Errno { number, .. } if recorded => bpf::USER_NOTIF | u32::from(number),
        Action::Errno { number, .. } => bpf::ERRNO | u32::from(number),
    }
}

fn call(name: &str) -> u32 {
    let mut calls = PROFILES.iter().flat_map(|profile| profile.rows).flat_map(|row| row.syscalls);
    calls.find(|call| call.name == name).unwrap_or_else(|| panic!("no row names {name}")).number
}

fn rows_of(profile: &Profile, number: u32) -> Vec<&'static Row> {
    profile.rows.iter().filter(|row| row.syscalls.iter().any(|call| call.number == number)).collect()
}

/// Registers worth trying for a call: for each argument that some row looks at, every value that matches, its
/// neighbours, the value with single bits turned, and all of them with dirt above the low 32 bits.
fn registers(rows: &[&Row]) -> Vec<[u64; 6]> {
    let mut all = vec![[0; 6], [u64::MAX; 6]];
    for arg in 0..6 {
        let conditions = || rows.iter().flat_map(|row| row.args).filter(|condition| usize::from(condition.arg) == arg);
        let mut tries = BTreeSet::from([0]);
        for condition in conditions() {
            for Value { value, .. } in condition.values {
                let outside = !condition.mask.unwrap_or(u64::MAX) & 0xffff_ffff;
                tries.extend([*value, value | outside, value.wrapping_add(1), value.wrapping_sub(1)]);
                if rows.len() == 1 {
                    tries.extend((0..64).map(|bit| value ^ (1 << bit)));
                }
            }
        }
        tries.extend(tries.clone().into_iter().map(|value| value ^ DIRT));
        if conditions().next().is_some() {
            all = all.iter().flat_map(|done| tries.iter().map(|value| with(*done, arg, *value))).collect();
        }
    }
    all
}

fn with(mut args: [u64; 6], arg: usize, value: u64) -> [u64; 6] {
    args[arg] = value;
    args
}

fn named(profile: &Profile, name: &str, args: &[u64]) -> String {
    let call = profile.rows.iter().flat_map(|row| row.syscalls).find(|call| call.name == name);
    let number = call.unwrap_or_else(|| panic!("{}: no row names {name}", profile.name)).number;
    let mut registers = [0; 6];
    registers[..args.len()].copy_from_slice(args);
    let (action, rule) = profile.refusal(number, &registers);
    let returned = bpf::run(&steps(profile), bpf::AUDIT_ARCH_X86_64, number, &registers);
    assert_eq!(returned, word(action, rule.is_some()));
    action.to_string()
}

#[test]
fn programs_return_what_the_rows_say() {
    for profile in PROFILES {
        let program = steps(profile);
        for number in 0..1024 {
            for args in registers(&rows_of(profile, number)) {
                let (action, row) = profile.decide(number, &args);
                let returned = bpf::run(&program, bpf::AUDIT_ARCH_X86_64, number, &args);
                let recorded = action != Action::Allow && row.map_or(profile.record_default, |row| row.record);
                assert_eq!(returned, word(action, recorded), "{} {number} {args:x?}", profile.name);
                let (same, rule) = profile.refusal(number, &args);
                assert_eq!((same, rule.is_some()), (action, recorded), "{} {number} {args:x?}", profile.name);
            }
        }
    }
}

#[test]
fn other_abis_never_pass() {
    for profile in PROFILES {
        let program = steps(profile);
        for args in [[0; 6], [u64::MAX; 6]] {
            for number in (0..1024).chain([u32::MAX >> 2, u32::MAX]) {
                let x32 = number | 0x4000_0000;
                let returned = bpf::run(&program, bpf::AUDIT_ARCH_X86_64, x32, &args);
                assert_eq!(returned, bpf::ERRNO | libc::ENOSYS as u32, "{} {x32:#x}", profile.name);
                // i386, aarch64, riscv64, and x86_64 without its 64-bit mark.
                for arch in [0x4000_0003, 0xc000_00b7, 0xc000_00f3, 0x4000_003e, 0] {
                    assert_eq!(bpf::run(&program, arch, number, &args), bpf::KILL_PROCESS, "{}", profile.name);
                }
            }
        }
    }
}

#[test]
fn no_row_is_shadowed() {
    for profile in PROFILES {
        for row in profile.rows {
            for call in row.syscalls {
                let tries = registers(&rows_of(profile, call.number));
                let reached = |wanted: Action| {
                    tries.iter().any(|args| {
                        let (action, decided) = profile.decide(call.number, args);
                        action == wanted && decided.is_some_and(|decided| std::ptr::eq(decided, row))
                    })
                };
                assert!(reached(row.action), "{} {}: {}", profile.name, call.name, row.reason);
                assert!(row.otherwise.is_none_or(reached), "{} {}: {}", profile.name, call.name, row.reason);
            }
        }
    }
}

#[test]
fn every_row_has_a_reason_of_its_own() {
    for profile in PROFILES {
        let mut seen = BTreeSet::new();
        for row in profile.rows {
            assert!(row.reason.len() > 20 && row.reason.ends_with('.'), "{}: {}", profile.name, row.reason);
            assert!(seen.insert(row.reason), "{}: twice: {}", profile.name, row.reason);
        }
    }
}

#[test]
fn digests_are_of_the_programs() {
    for profile in PROFILES {
        assert!(profile.program.len() < 4096, "{}", profile.name);
        let bytes = profile.program.iter().flat_map(|step| {
            let [a, b] = step.code.to_le_bytes();
            let [c, d, e, f] = step.k.to_le_bytes();
            [a, b, step.jt, step.jf, c, d, e, f]
        });
        let digest = Sha256::digest(bytes.collect::<Vec<u8>>());
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, profile.sha256, "{}", profile.name);
    }
}

#[test]
fn no_level_opens_the_host_its_neighbours_or_new_namespaces() {
    let refused = "ptrace process_vm_readv process_vm_writev pidfd_getfd kcmp keyctl add_key request_key bpf \
        perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register kexec_load kexec_file_load \
        init_module finit_module delete_module mount umount2 pivot_root chroot fsopen fsconfig fsmount fspick \
        move_mount open_tree open_tree_attr mount_setattr unshare setns open_by_handle_at acct swapon swapoff quotactl \
        syslog reboot settimeofday clock_settime adjtimex clock_adjtime sethostname setdomainname iopl ioperm \
        modify_ldt vhangup fanotify_init";
    for profile in LEVELS {
        for name in refused.split_whitespace() {
            for args in [[0; 6], [u64::MAX; 6]] {
                assert_eq!(named(profile, name, &args), "EPERM", "{} {name}", profile.name);
            }
        }
        assert_eq!(named(profile, "clone3", &[]), "ENOSYS");
    }
}

#[test]
fn pid_1_keeps_what_it_needs_after_its_filter() {
    let needed = "recvmsg sendmsg wait4 waitid kill ppoll poll epoll_pwait epoll_wait epoll_ctl signalfd4 rt_sigaction \
        rt_sigprocmask rt_sigreturn pipe2 dup3 close close_range setsid prlimit64 setrlimit chdir fchdir \
        landlock_create_ruleset landlock_add_rule landlock_restrict_self execve exit exit_group read write getpid \
        futex mmap munmap brk fcntl";
    for profile in LEVELS {
        for name in needed.split_whitespace() {
            assert_eq!(named(profile, name, &[]), "allow", "{} {name}", profile.name);
        }
        assert_eq!(named(profile, "clone", &[libc::SIGCHLD as u64]), "allow");
        assert_eq!(named(profile, "seccomp", &[1, 0]), "allow");
        assert_eq!(named(profile, "prctl", &[libc::PR_SET_NO_NEW_PRIVS as u64, 1]), "allow");
        assert_eq!(named(profile, "prctl", &[libc::PR_SET_PDEATHSIG as u64, 9]), "allow");
    }
}

#[test]
fn arguments_decide_as_the_kernel_reads_them() {
    let [unix, inet, packet, netlink] = [1, 2, 17, 16];
    let [stream, raw, cloexec] = [1, 3, 0o2_000_000];
    for (args, standard, strict, minimal) in [
        ([unix, stream, 0], "allow", "allow", "allow"),
        ([unix | DIRT, stream, 0], "allow", "allow", "allow"),
        ([inet, stream | cloexec, 0], "allow", "EAFNOSUPPORT", "allow"),
        ([inet, stream | cloexec | DIRT, 6 | DIRT], "allow", "EAFNOSUPPORT", "allow"),
        ([inet, stream, 262], "EPROTONOSUPPORT", "EAFNOSUPPORT", "EPROTONOSUPPORT"),
        ([inet, stream, 262 | DIRT], "EPROTONOSUPPORT", "EAFNOSUPPORT", "EPROTONOSUPPORT"),
        ([inet, raw | cloexec, 1], "EPERM", "EAFNOSUPPORT", "EPERM"),
        ([inet | DIRT, raw | DIRT, 1], "EPERM", "EAFNOSUPPORT", "EPERM"),
        ([inet, 10, 0x300], "EPERM", "EAFNOSUPPORT", "EPERM"),
        ([netlink, raw | cloexec, 0], "allow", "EAFNOSUPPORT", "allow"),
        ([netlink, raw, 9], "EPROTONOSUPPORT", "EAFNOSUPPORT", "allow"),
        ([packet | DIRT, raw, 0], "EAFNOSUPPORT", "EAFNOSUPPORT", "EAFNOSUPPORT"),
        ([40, stream, 0], "EAFNOSUPPORT", "EAFNOSUPPORT", "EAFNOSUPPORT"),
    ] {
        assert_eq!(named(&STANDARD, "socket", &args), standard, "{args:x?}");
        assert_eq!(named(&STRICT, "socket", &args), strict, "{args:x?}");
        assert_eq!(named(&STRICT_NO_MEMFD, "socket", &args), strict, "{args:x?}");
        assert_eq!(named(&MINIMAL, "socket", &args), minimal, "{args:x?}");
    }
    for profile in LEVELS {
        assert_eq!(named(profile, "ioctl", &[0, 0x5412]), "EPERM");
        assert_eq!(named(profile, "ioctl", &[0, 0x5412 | DIRT]), "EPERM");
        assert_eq!(named(profile, "ioctl", &[0, 0x5413]), "allow");
        assert_eq!(named(profile, "sendto", &[0, 0, 0, 0x2000_0000 | 0x4000]), "EOPNOTSUPP");
        assert_eq!(named(profile, "sendmsg", &[0, 0, 0x2000_0000 | DIRT]), "EOPNOTSUPP");
        assert_eq!(named(profile, "sendmmsg", &[0, 0, 0, 0x4000]), "allow");
        assert_eq!(named(profile, "setsockopt", &[0, 6 | DIRT, 30 | DIRT]), "EOPNOTSUPP");
        assert_eq!(named(profile, "setsockopt", &[0, 6, 1]), "allow");
        assert_eq!(named(profile, "setsockopt", &[0, 1, 30]), "allow");
        assert_eq!(named(profile, "mknodat", &[0, 0, 0o020_666]), "EPERM");
        assert_eq!(named(profile, "mknodat", &[0, 0, 0o010_666 | DIRT]), "allow");
    }
    for profile in LEVELS {
        for namespace in [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
            assert_eq!(named(profile, "clone", &[namespace | 17]), "EPERM");
            assert_eq!(named(profile, "clone", &[namespace | 17 | DIRT]), "EPERM");
        }
        // What pthread_create passes, and a time namespace's bit, which clone takes for a signal number's.
        assert_eq!(named(profile, "clone", &[0x003d_0f00 | DIRT]), "allow");
        assert_eq!(named(profile, "clone", &[0x80]), "allow");
        assert_eq!(named(profile, "prctl", &[22 | DIRT, 2]), "EPERM");
    }
}

#[test]
fn levels_are_ordered_and_the_derived_one_differs_in_one_call() {
    for number in 0..1024 {
        let rows: Vec<&Row> = PROFILES.iter().flat_map(|profile| rows_of(profile, number)).collect();
        for args in registers(&rows).into_iter().take(20_000) {
            let allows = |profile: &Profile| profile.decide(number, &args).0 == Action::Allow;
            assert!(!allows(&STRICT) || allows(&STANDARD), "{number} {args:x?}");
            assert!(!allows(&STANDARD) || allows(&MINIMAL), "{number} {args:x?}");
            if number != libc::SYS_memfd_create as u32 {
                assert_eq!(STRICT.decide(number, &args).0, STRICT_NO_MEMFD.decide(number, &args).0);
            }
        }
    }
    assert_eq!(named(&STRICT, "memfd_create", &[]), "allow");
    assert_eq!(named(&STRICT_NO_MEMFD, "memfd_create", &[]), "EPERM");
}

#[test]
fn the_second_filter_closes_its_doors_and_changes_no_other_answer() {
    for name in ["seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"] {
        assert_eq!(named(&WORKLOAD, name, &[1]), "EPERM");
        assert_eq!(named(&STANDARD, name, &[1]), "allow", "{name} needs no second filter");
    }
    for number in 0..1024 {
        for level in LEVELS {
            for args in registers(&rows_of(&WORKLOAD, number)) {
                let (first, second) = (level.decide(number, &args).0, WORKLOAD.decide(number, &args).0);
                // Of two errors the later filter's wins, so it must not have another one to offer.
                assert!(first == Action::Allow || second == Action::Allow || first == second, "{number} {args:x?}");
                // Nor may it hide one from the record: an error beats the question to a listener. Of seccomp pid 1 needs
                // some operations, so there the second filter takes all.
                let hidden = second != Action::Allow && level.refusal(number, &args).1.is_some();
                assert!(!hidden || number == call("seccomp"), "{number} {args:x?}");
            }
        }
    }
}

#[test]
fn each_level_has_its_filter() {
    let name = |level, memfd_noexec| for_level(level, memfd_noexec).map(|profile| profile.name);
    assert_eq!(name(Level::Minimal, false), Some("minimal"));
    assert_eq!(name(Level::Standard, false), Some("standard"));
    assert_eq!(name(Level::Strict, true), Some("strict"));
    assert_eq!(name(Level::Strict, false), Some("strict-no-memfd"));
    assert_eq!(name(Level::Maximum, true), None);
    assert_eq!(workload().name, "workload");
}

#[test]
fn what_programs_try_to_learn_whether_it_is_there_is_not_recorded() {
    for profile in LEVELS {
        let recorded = |name: &str, args: [u64; 6]| profile.refusal(call(name), &args).1.is_some();
        assert!(!recorded("clone3", [0; 6]) && !recorded("listns", [0; 6]));
        assert!(!recorded("prctl", [0x7fff, 0, 0, 0, 0, 0]));
        for name in ["ptrace", "unshare", "setns", "mount", "bpf", "keyctl", "init_module", "io_uring_setup"] {
            assert!(recorded(name, [0; 6]), "{} {name}", profile.name);
        }
        assert!(recorded("prctl", [libc::PR_SET_SECCOMP as u64, 2, 0, 0, 0, 0]));
        assert!(recorded("clone", [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0]));
        assert!(profile.record_default);
    }
    assert_eq!(WORKLOAD.named(0, call("seccomp")), None);
    assert!(!WORKLOAD.record_default && WORKLOAD.rows.iter().all(|row| !row.record));
}

#[test]
fn every_recorded_refusal_has_a_name_of_its_own() {
    for profile in LEVELS {
        let mut seen = BTreeSet::new();
        for number in 0..1024 {
            let mut rules = BTreeSet::new();
            for args in registers(&rows_of(profile, number)) {
                rules.extend(profile.refusal(number, &args).1);
            }
            for rule in rules {
                let (text, detail) = profile.named(rule, number).unwrap();
                assert!(text.starts_with("seccomp/") && text.len() + detail.len() < 300, "{text} {detail}");
                assert!(seen.insert((text.clone(), detail.clone())), "{text} {detail}");
                // A number of one call is none of another.
                assert!(text.ends_with(": default") || profile.named(rule, number + 1).is_none(), "{text}");
            }
        }
        assert!(profile.named(u16::MAX - 1, 0).is_none());
        assert!(profile.named(OTHER_RULES, OTHER_NUMBERS).is_some());
    }
    let told = |profile: &'static Profile, name: &str, args: &[u64]| {
        let mut registers = [0; 6];
        registers[..args.len()].copy_from_slice(args);
        let rule = profile.refusal(call(name), &registers).1.unwrap();
        let (rule, detail) = profile.named(rule, call(name)).unwrap();
        format!("{rule} | {detail}")
    };
    for (text, wanted) in [
        (told(&STANDARD, "ptrace", &[]), "seccomp/standard.json: ptrace | ptrace"),
        (told(&MINIMAL, "kcmp", &[]), "seccomp/standard.json: kcmp | kcmp"),
        (told(&STRICT, "socket", &[2]), "seccomp/strict.json: socket | socket (domain is not AF_UNIX)"),
        (told(&STRICT_NO_MEMFD, "memfd_create", &[]), "seccomp/strict.json: memfd_create | memfd_create"),
        (
            told(&STANDARD, "mknodat", &[0, 0, 0o020_000]),
            "seccomp/standard.json: mknodat | mknodat (mode is one of S_IFCHR, S_IFBLK)",
        ),
        (
            told(&STANDARD, "ioctl", &[0, 0x5412]),
            "seccomp/standard.json: ioctl | ioctl (cmd is one of 5 that the row names)",
        ),
        (
            told(&STANDARD, "clone", &[0x1000_0000]),
            "seccomp/standard.json: clone | clone (flags has one of CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, \
             CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET)",
        ),
        (
            told(&STANDARD, "socket", &[2, 3, 0]),
            "seccomp/standard.json: socket | socket (domain is one of AF_INET, AF_INET6, type is one of SOCK_RAW, \
             SOCK_PACKET)",
        ),
        (told(&STANDARD, "io_setup", &[]), "seccomp/standard.json: default | io_setup"),
    ] {
        assert_eq!(text, wanted);
    }
}

#[test]
fn without_a_listener_every_refusal_is_the_same_error() {
    for profile in PROFILES {
        let asking = steps(profile);
        let quiet: Vec<_> = quiet(profile.program).iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect();
        for number in (0..1024).chain([0x4000_0000, u32::MAX]) {
            for args in registers(&rows_of(profile, number)) {
                let asked = bpf::run(&asking, bpf::AUDIT_ARCH_X86_64, number, &args);
                let answered = bpf::run(&quiet, bpf::AUDIT_ARCH_X86_64, number, &args);
                let expected = if asked & !0xffff == bpf::USER_NOTIF { bpf::ERRNO | asked & 0xffff } else { asked };
                assert_eq!(answered, expected, "{} {number} {args:x?}", profile.name);
            }
        }
    }
}
