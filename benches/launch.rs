//! What a sandbox costs, from its request to the last word about it: `cargo bench --bench launch -- [OPTION...] [ENGINE...]`.
//!
//! Drives engines over their seam, each with `/bin/true` in a fresh sandbox, in turn round by round, so that what else
//! the machine does meets all of them. Several programs compare builds: ratios are to the first. Run as root.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sandkeep::wire::{Event, FromMonitor, LevelWire, Reply, Verb};

#[path = "../tests/support/engine.rs"]
mod support;

use support::{Engine, Front, create, exec, pipes, random_id};

struct Options {
    engines: Vec<PathBuf>,
    rounds: usize,
    /// Calls of one round.
    calls: usize,
    /// Calls in flight.
    at_once: usize,
    level: LevelWire,
    /// Created and destroyed without a command.
    empty: bool,
}

fn options() -> Options {
    let mut o =
        Options { engines: Vec::new(), rounds: 10, calls: 50, at_once: 1, level: LevelWire::Standard, empty: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|n| n.parse().ok()).expect("a number");
        match argument.as_str() {
            "--rounds" => o.rounds = number(),
            "--calls" => o.calls = number(),
            "--at-once" => o.at_once = number(),
            "--empty" => o.empty = true,
            "--level" => {
                o.level = match arguments.next().as_deref() {
                    Some("minimal") => LevelWire::Minimal,
                    Some("standard") => LevelWire::Standard,
                    Some("strict") => LevelWire::Strict,
                    other => panic!("{other:?} is no level of this backend"),
                }
            }
            // What cargo adds.
            "--bench" => {}
            program => o.engines.push(program.into()),
        }
    }
    if o.engines.is_empty() {
        o.engines.push(env!("CARGO_BIN_EXE_sandkeep-engine").into());
    }
    o
}

/// Microseconds of each part of every call.
#[derive(Default)]
struct Parts {
    /// Create to Created.
    ready: Vec<f64>,
    /// Exec to Started.
    started: Vec<f64>,
    /// Started to the end of file on stdout: the program itself, and what wakes its reader.
    output: Vec<f64>,
    /// From there to Exited.
    exited: Vec<f64>,
    /// Exited to Reaped.
    reaped: Vec<f64>,
    whole: Vec<f64>,
}

struct Subject {
    engine: Engine,
    front: Front,
    parts: Parts,
    /// Wall and processor time of each round, divided by its calls.
    wall: Vec<f64>,
    own_cpu: Vec<f64>,
    children_cpu: Vec<f64>,
}

/// User and system time in microseconds: the engine's own, and that of the sandboxes it has reaped.
fn cpu_us(engine: &Engine) -> (f64, f64) {
    let stat = procfs::process::Process::new(engine.pid()).unwrap().stat().unwrap();
    let us = |ticks: u64| ticks as f64 * 1e6 / procfs::ticks_per_second() as f64;
    (us(stat.utime + stat.stime), us(stat.cutime as u64 + stat.cstime as u64))
}

fn true_command(id: &sandkeep::spec::SandboxId) -> sandkeep::wire::Exec {
    sandkeep::wire::Exec { argv: vec!["/bin/true".into()], ..exec(id, "") }
}

fn one(front: &mut Front, level: LevelWire, parts: &mut Parts) {
    let us = |d: Duration| d.as_secs_f64() * 1e6;
    let id = random_id();
    let began = Instant::now();
    front.created(&id, level);
    let ready = Instant::now();
    let (out, _err, fds) = pipes();
    let seq = front.send(Verb::Exec(true_command(&id)), &fds);
    drop(fds);
    assert!(matches!(front.reply_to(seq).0, Reply::Started { .. }));
    let started = Instant::now();
    drain(out);
    let output = Instant::now();
    let end = front.wait_exited(&id);
    let exited = Instant::now();
    assert_eq!(end.outcome, sandkeep::wire::OutcomeWire::Exited { code: 0 });
    front.wait_reaped(&id);
    let reaped = Instant::now();
    parts.ready.push(us(ready - began));
    parts.started.push(us(started - ready));
    parts.output.push(us(output - started));
    parts.exited.push(us(exited - output));
    parts.reaped.push(us(reaped - exited));
    parts.whole.push(us(reaped - began));
}

fn drain(out: OwnedFd) {
    let mut nothing = [0; 16];
    assert_eq!(nix::unistd::read(out.as_fd(), &mut nothing), Ok(0));
}

/// Many in flight on one connection: only the round is timed.
fn many(front: &mut Front, o: &Options, parts: &mut Parts) {
    let mut flying = std::collections::HashMap::new();
    let (mut sent, mut done) = (0, 0);
    while done < o.calls {
        while sent < o.calls && flying.len() < o.at_once {
            let id = random_id();
            flying.insert(id.to_string(), Instant::now());
            front.send(Verb::Create(create(&id, o.level)), &[]);
            if o.empty {
                front.send(Verb::Destroy { id: id.to_string() }, &[]);
            } else {
                let (_out, _err, fds) = pipes();
                front.send(Verb::Exec(true_command(&id)), &fds);
            }
            sent += 1;
        }
        match front.receive().expect("the engine closed the connection").0 {
            FromMonitor::Event(Event::Reaped { id }) => {
                let began = flying.remove(&id).expect("one of ours");
                parts.whole.push(began.elapsed().as_secs_f64() * 1e6);
                done += 1;
            }
            FromMonitor::Reply { reply: Reply::Refused(refusal), .. } if !o.empty => panic!("{refusal:?}"),
            _ => {}
        }
    }
}

fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(((values.len() as f64 - 1.0) * q) as usize).copied().unwrap_or(f64::NAN)
}

fn main() {
    let o = options();
    let mut subjects: Vec<Subject> = o
        .engines
        .iter()
        .map(|program| {
            let engine = Engine::start_program(program);
            let mut front = engine.connect();
            for _ in 0..10 {
                one(&mut front, o.level, &mut Parts::default());
            }
            let (wall, own_cpu, children_cpu) = (Vec::new(), Vec::new(), Vec::new());
            Subject { engine, front, parts: Parts::default(), wall, own_cpu, children_cpu }
        })
        .collect();
    for _ in 0..o.rounds {
        for s in &mut subjects {
            let (own, children) = cpu_us(&s.engine);
            let began = Instant::now();
            if o.at_once == 1 && !o.empty {
                (0..o.calls).for_each(|_| one(&mut s.front, o.level, &mut s.parts));
            } else {
                many(&mut s.front, &o, &mut s.parts);
            }
            let calls = o.calls as f64;
            s.wall.push(began.elapsed().as_secs_f64() * 1e6 / calls);
            let (own_now, children_now) = cpu_us(&s.engine);
            s.own_cpu.push((own_now - own) / calls);
            s.children_cpu.push((children_now - children) / calls);
        }
    }
    println!("microseconds, p50 of {} calls in {} rounds, {} in flight", o.rounds * o.calls, o.rounds, o.at_once);
    let mut first: Vec<f64> = Vec::new();
    for (s, program) in subjects.iter_mut().zip(&o.engines) {
        println!("{}", program.display());
        let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        let rows = [
            ("create to ready", quantile(&mut s.parts.ready, 0.5)),
            ("exec to started", quantile(&mut s.parts.started, 0.5)),
            ("started to end of output", quantile(&mut s.parts.output, 0.5)),
            ("end of output to exited", quantile(&mut s.parts.exited, 0.5)),
            ("exited to reaped", quantile(&mut s.parts.reaped, 0.5)),
            ("whole", quantile(&mut s.parts.whole, 0.5)),
            ("whole, p99", quantile(&mut s.parts.whole, 0.99)),
            ("round divided by calls", quantile(&mut s.wall, 0.5)),
            ("processor: engine (mean)", mean(&s.own_cpu)),
            ("processor: sandboxes (mean)", mean(&s.children_cpu)),
        ];
        for (at, (name, value)) in rows.into_iter().enumerate() {
            if value.is_nan() {
                continue;
            }
            match first.get(at) {
                Some(one) => println!("  {name:30} {value:9.1}  x{:.3}", value / one),
                None => println!("  {name:30} {value:9.1}"),
            }
        }
        if first.is_empty() {
            first = rows.iter().map(|(_, value)| *value).collect();
        }
    }
}
