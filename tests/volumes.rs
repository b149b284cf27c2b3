//! Volumes over the seam: what a sandbox sees of one, what holds its size, who keeps it, and that nothing of it is left.

#[path = "support/machine.rs"]
mod machine;
#[path = "support/engine.rs"]
mod support;

use sandkeep::wire::*;
use support::*;

fn named(owner: &str, name: &str) -> VolumeWire {
    VolumeWire::Workspace { owner: owner.into(), name: name.into() }
}

fn open(front: &mut Front, volume: &VolumeWire, create: bool) -> Reply {
    front.call(Verb::Open(Open { volume: volume.clone(), create, bytes: None }))
}

fn with(volume: &VolumeWire, place: PlaceWire, read_only: bool) -> VolumeUseWire {
    VolumeUseWire { volume: volume.clone(), place, read_only }
}

fn run(front: &mut Front, level: LevelWire, volumes: Vec<VolumeUseWire>, script: &str) -> Ran {
    let id = random_id();
    front.run_as(Create { volumes, ..create(&id, level) }, exec(&id, script))
}

const SMALL: &str = "[workspaces]\nsize_mb = 8\nfiles = 200\neach_principal = 3\n";

fn engine(config: &str) -> Option<Engine> {
    machine::expect("root").then(|| Engine::start_with(config, &[]))
}

#[test]
fn a_workspace_is_the_callers_own_at_every_level_and_lasts() {
    let Some(engine) = engine(&format!("{SMALL}[levels]\nminimal = true\n")) else { return };
    let mut front = engine.connect();
    let volume = named("uid:1", "project-a");
    assert_eq!(open(&mut front, &volume, false), Reply::Refused(Refusal::UnknownVolume));
    let Reply::Opened { size, made: true } = open(&mut front, &volume, true) else { panic!("not made") };
    assert!(size.bytes >= 8 << 20 && size.bytes < 12 << 20, "{size:?}");
    assert!(size.files >= 200 && size.files_used == 0, "{size:?}");
    let write =
        "id -u; stat -c '%u %g %a' .; ls -A; mkdir d; echo one > d/f; stat -c %u d/f; cp /bin/true t; ./t && echo ran";
    let ran = run(&mut front, LevelWire::Standard, vec![with(&volume, PlaceWire::Workspace, false)], write);
    let id = ran.stdout.lines().next().unwrap().to_owned();
    assert_eq!(ran.stdout, format!("{id}\n{id} {id} 755\n{id}\nran\n"), "{}", ran.stderr);
    let report = &ran.created.enforced.volumes;
    assert_eq!((report.len(), report[0].path.as_str(), report[0].read_only), (1, "/workspace", false));
    assert!(report[0].bytes_max >= 8 << 20);
    // Of strict it can be read, and nothing in it is written or run.
    let ran = run(
        &mut front,
        LevelWire::Strict,
        vec![with(&volume, PlaceWire::Workspace, true)],
        "cat d/f; touch x; ./t; echo $?; stat -c %U d/f",
    );
    assert!(ran.stdout.starts_with("one\n126\n"), "{} {}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("Read-only file system") && ran.stderr.contains("Permission denied"), "{}", ran.stderr);
    // Minimal has no user namespace, and its own uid is the owner all the same.
    let ran = run(
        &mut front,
        LevelWire::Minimal,
        vec![with(&volume, PlaceWire::Workspace, false)],
        "cat d/f; [ $(id -u) = $(stat -c %u d/f) ] && echo owner; echo two >> d/f",
    );
    assert_eq!(ran.stdout, "one\nowner\n", "{}", ran.stderr);
    let ran = run(&mut front, LevelWire::Standard, vec![with(&volume, PlaceWire::Workspace, false)], "cat d/f");
    assert_eq!(ran.stdout, "one\ntwo\n");
    // Another owner's of the same name is another one.
    let other = named("uid:2", "project-a");
    assert!(matches!(open(&mut front, &other, true), Reply::Opened { made: true, .. }));
    let ran = run(&mut front, LevelWire::Standard, vec![with(&other, PlaceWire::Workspace, false)], "ls -A");
    assert_eq!(ran.stdout, "");
    drop(front);
    // An engine that was killed leaves it as it was.
    let dir = engine.kill9();
    let engine = Engine::start_in(dir, SMALL, &[]);
    let mut front = engine.connect();
    assert!(matches!(open(&mut front, &volume, true), Reply::Opened { made: false, .. }));
    let ran = run(&mut front, LevelWire::Standard, vec![with(&volume, PlaceWire::Workspace, false)], "cat d/f");
    assert_eq!(ran.stdout, "one\ntwo\n", "{}", ran.stderr);
    let Reply::Workspaces { entries, more } = front.call(Verb::Workspaces { owner: "uid:1".into(), after: None })
    else {
        panic!()
    };
    assert_eq!((entries.len(), entries[0].name.as_str(), more), (1, "project-a", false));
    assert!(entries[0].size.files_used >= 3, "{entries:?}");
    assert_eq!(front.call(Verb::Remove { volume: volume.clone() }), Reply::Done);
    assert_eq!(open(&mut front, &volume, false), Reply::Refused(Refusal::UnknownVolume));
    assert!(engine.stop());
}

#[test]
fn its_size_and_its_number_of_files_are_the_kernels_to_hold() {
    let Some(engine) = engine(SMALL) else { return };
    let mut front = engine.connect();
    let volume = named("ci", "full");
    open(&mut front, &volume, true);
    let volumes = || vec![with(&volume, PlaceWire::Workspace, false)];
    let script = "head -c 20000000 /dev/zero > big; stat -c %s big; rm big; for i in $(seq 300); do : > f$i || break; done 2>&1 | tail -1; ls | wc -l";
    let ran = run(&mut front, LevelWire::Standard, volumes(), script);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let bytes: u64 = lines[0].parse().unwrap();
    assert!((8 << 20..12 << 20).contains(&bytes), "{}", ran.stdout);
    assert!(
        ran.stderr.contains("No space left on device") && lines[1].contains("No space left on device"),
        "{lines:?}"
    );
    let files: u64 = lines[2].parse().unwrap();
    assert!((200..=280).contains(&files), "{files}");
    // Control: without it the same fits.
    let ran = run(&mut front, LevelWire::Standard, Vec::new(), "head -c 20000000 /dev/zero > big && stat -c %s big");
    assert_eq!(ran.stdout, "20000000\n", "{}", ran.stderr);
    assert!(engine.stop());
}

#[test]
fn many_at_once_see_the_same_and_only_who_is_alone_removes() {
    let Some(engine) = engine(SMALL) else { return };
    let mut front = engine.connect();
    let volume = named("ci", "shared");
    open(&mut front, &volume, true);
    let id = random_id();
    let volumes = vec![with(&volume, PlaceWire::Workspace, false)];
    let running = front.start_as(
        Create { volumes: volumes.clone(), ..create(&id, LevelWire::Standard) },
        exec(&id, "echo a > a; while [ ! -e b ]; do sleep 0.01; done; echo seen"),
    );
    assert!(matches!(
        front.call(Verb::Remove { volume: volume.clone() }),
        Reply::Refused(Refusal::VolumeBusy { users: 1 })
    ));
    let ran = run(&mut front, LevelWire::Standard, volumes, "while [ ! -e a ]; do sleep 0.01; done; cat a; touch b");
    assert_eq!(ran.stdout, "a\n");
    front.wait_exited(&running.id);
    assert_eq!(front.call(Verb::Remove { volume: volume.clone() }), Reply::Done);
    assert_eq!(front.call(Verb::Remove { volume }), Reply::Refused(Refusal::UnknownVolume));
    // No more than the operator allows.
    for name in ["a", "b", "c"] {
        assert!(matches!(open(&mut front, &named("ci", name), true), Reply::Opened { .. }));
    }
    assert_eq!(open(&mut front, &named("ci", "d"), true), Reply::Refused(Refusal::TooManyVolumes { most: 3 }));
    assert!(matches!(open(&mut front, &named("other", "d"), true), Reply::Opened { .. }));
    assert!(engine.stop());
}

#[test]
fn what_one_command_makes_the_next_runs_without_being_able_to_write_it() {
    let Some(engine) = engine("") else { return };
    for level in [LevelWire::Standard, LevelWire::Strict] {
        let mut front = engine.connect();
        let volume = VolumeWire::Scratch { id: format!("vol_{:026}", level as u32) };
        assert!(matches!(open(&mut front, &volume, true), Reply::Opened { made: true, .. }));
        let make = "cp /bin/echo /program/p && /program/p made; echo $?; touch /workspace/x 2>&1 | cut -c1-5";
        let ran = run(&mut front, level, vec![with(&volume, PlaceWire::Program, false)], make);
        let expected = if level == LevelWire::Strict { "126\ntouch\n" } else { "made\n0\n" };
        assert_eq!(ran.stdout, expected, "{level:?} {}", ran.stderr);
        let ran = run(
            &mut front,
            level,
            vec![with(&volume, PlaceWire::Program, true)],
            "/program/p ran; echo x > /program/p; echo $?",
        );
        assert_eq!(ran.stdout, "ran\n1\n", "{level:?} {}", ran.stderr);
        assert!(ran.stderr.contains("Read-only file system"), "{}", ran.stderr);
        // Another front can not take it.
        let mut stranger = engine.connect();
        assert_eq!(stranger.call(Verb::Close { volume: volume.clone() }), Reply::Refused(Refusal::UnknownVolume));
        assert_eq!(front.call(Verb::Close { volume: volume.clone() }), Reply::Done);
        let id = random_id();
        let gone = Create { volumes: vec![with(&volume, PlaceWire::Program, true)], ..create(&id, level) };
        assert_eq!(front.call(Verb::Create(gone)), Reply::Refused(Refusal::UnknownVolume));
    }
    assert!(engine.stop());
}

#[test]
#[cfg(feature = "fault-injection")]
fn a_volume_that_can_not_be_given_is_no_sandbox() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start_with(SMALL, &["--fail-at", "volume"]);
    let mut front = engine.connect();
    let volume = named("ci", "w");
    open(&mut front, &volume, true);
    let id = random_id();
    let creating =
        Create { volumes: vec![with(&volume, PlaceWire::Workspace, false)], ..create(&id, LevelWire::Standard) };
    match front.call(Verb::Create(creating)) {
        Reply::Refused(Refusal::SetupFailed { step, .. }) => assert_eq!(step, "volume"),
        other => panic!("{other:?}"),
    }
    front.wait_reaped(&id);
    // Nothing holds it any more, and what needs none goes on.
    assert_eq!(front.call(Verb::Remove { volume }), Reply::Done);
    assert_eq!(front.run(LevelWire::Standard, "echo on").stdout, "on\n");
    assert!(engine.stop());
}

#[test]
fn nothing_of_volumes_is_left_when_the_engine_ends() {
    let Some(engine) = engine(SMALL) else { return };
    let loops = || {
        let all = std::fs::read_dir("/sys/block").unwrap().flatten();
        let files = all.filter_map(|d| std::fs::read_to_string(d.path().join("loop/backing_file")).ok());
        files.filter(|f| f.contains("/workspaces/ci/left")).count()
    };
    let mut front = engine.connect();
    open(&mut front, &named("ci", "left"), true);
    front.call(Verb::Open(Open {
        volume: VolumeWire::Scratch { id: format!("vol_{:026}", 1) },
        create: true,
        bytes: None,
    }));
    assert_eq!(loops(), 1);
    assert!(engine.stop());
    for _ in 0..200 {
        if loops() == 0 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("a loop device is left");
}
