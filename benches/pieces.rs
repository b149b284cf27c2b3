//! The pure pieces on the path of every call: what is spent before and after a sandbox's own work.
//!
//! `cargo bench --bench pieces`; `scripts/bench --pieces` runs it and holds two of its figures against the marks.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use sandkeep::checks::{Language, Script, load, screen};
use sandkeep::config::Config;
use sandkeep::policy::plan::{Ask, Rules, TopLevel, plan};
use sandkeep::policy::{BOX_ID_DEFAULT, table::resolve_limits};
use sandkeep::runtimes::environment;
use sandkeep::spec::{Command, HostFacts, Level, LimitRequest, SandboxId};
use sandkeep::tools::listing::Format;
use sandkeep::tools::{Registry, custom};
use sandkeep::wire::{
    Create, CreatedWire, EnforcedWire, Exec, FromMonitor, GrantedWire, LevelWire, LifetimeWire, LimitsWire, Reply,
    Request, Verb, decode, encode,
};
use serde_json::{Value, json};

/// What a caller's parameters pass before anything is asked of the engine.
fn validate(c: &mut Criterion) {
    let registry = Registry::built_in();
    let mut group = c.benchmark_group("validate");
    let mut piece = |name: &str, tool: &str, parameters: Value| {
        let tool = registry.get(tool).expect("a built-in tool");
        let object = parameters.as_object().expect("an object").clone();
        group.bench_function(name, |b| {
            b.iter(|| {
                // As with a call, the parameters are used up.
                let accepted = tool.schema().accept(black_box(object.clone())).expect("good parameters");
                assert!(tool.work(accepted).is_ok());
            });
        });
    };
    piece("bash", "bash", json!({ "command": "df -h", "timeout": 30 }));
    piece("python", "python", json!({ "code": "1+1" }));
    let env: serde_json::Map<_, _> = (0..32).map(|n| (format!("NAME_{n}"), json!("value"))).collect();
    piece("bash_all", "bash", json!({ "command": "env", "working_dir": "a", "env": env, "stdin": "x".repeat(4096) }));
    group.finish();

    let wrong = json!({ "command": 1, "tiemout": 30 });
    let tool = registry.get("bash").expect("a built-in tool");
    c.bench_function("validate/refused", |b| {
        b.iter(|| assert_eq!(tool.schema().violations(black_box(&wrong)).len(), 2));
    });
}

/// What reading a caller's code costs before it runs: ten ordinary lines of each language.
fn checked(c: &mut Criterion) {
    const BASH: &str = "set -euo pipefail\ncd /workspace\nmkdir -p build out\nfor f in src/*.c; do\n  name=$(basename \"$f\" .c)\n  \
                        gcc -O2 -c \"$f\" -o \"build/$name.o\"\ndone\ngcc build/*.o -o out/app\n\
                        rm -rf build\nls -l out | awk '{ print $5, $9 }' | sort -n | tail -3\n";
    const PYTHON: &str = "import json, statistics\nfrom collections import Counter\nrows = [{'a': n, 'b': n % 3} for n in range(100)]\n\
                          counts = Counter(row['b'] for row in rows)\nmean = statistics.mean(row['a'] for row in rows)\n\
                          for key, value in sorted(counts.items()):\n    print(f'{key}: {value:>4}')\n\
                          text = json.dumps({'mean': mean, 'counts': dict(counts)}, indent=2)\n\
                          result = [line.strip() for line in text.splitlines() if ':' in line]\nprint(result)\n";
    let settings = Config::default().checks;
    for (name, language, code) in [("bash", Language::Bash, BASH), ("python", Language::Python, PYTHON)] {
        assert_eq!(code.lines().count(), 10);
        let script = Script { language, code, stdin: "", env: &[], cwd: "/workspace" };
        c.bench_function(&format!("checks/{name}_ten_lines"), |b| {
            b.iter(|| assert!(screen(black_box(&script), Level::Standard, &settings).is_ok()));
        });
    }
    c.bench_function("checks/load", |b| b.iter(|| assert!(load().is_ok())));
}

fn registry(c: &mut Criterion) {
    let registry = Registry::built_in();
    c.bench_function("registry/get", |b| b.iter(|| registry.get(black_box("python")).is_some()));
    c.bench_function("registry/get_unknown", |b| b.iter(|| registry.get(black_box("pyhton")).is_none()));
    // Registration compiles a tool's schema; told for one tool, whatever their number is.
    c.bench_function("registry/built_in_per_tool", |b| {
        b.iter_custom(|times| {
            let mut tools = 0;
            let begun = Instant::now();
            for _ in 0..times {
                tools += black_box(Registry::built_in()).table().len() as u64;
            }
            let each = begun.elapsed().as_nanos() as f64 / tools as f64;
            Duration::from_nanos((each * times as f64) as u64)
        });
    });
    // One more beside a hundred others: first as a manifest, read and compiled, then the registration itself.
    let manifest = |n: u32| {
        let text = format!(
            "name = 'tool_{n}'\nversion = '1.0.0'\ndescription = 'd'\n[parameters]\ntype = 'object'\nrequired = ['a']\n\
             [parameters.properties]\na = {{ type = 'number' }}\nb = {{ type = 'string', maxLength = 9 }}\n\
             [run]\ncommand = ['true']\n"
        );
        custom::read(&text).unwrap_or_else(|_| panic!("a good manifest"))
    };
    for n in 0..100 {
        registry.register(custom::tool(manifest(n))).expect("room for a hundred");
    }
    c.bench_function("registry/manifest", |b| b.iter(|| black_box(manifest(black_box(100)))));
    let tool = custom::tool(manifest(100));
    let table = registry.table();
    c.bench_function("registry/register", |b| b.iter(|| assert!(table.with(Arc::clone(&tool)).is_ok())));
    for format in [Format::Plain, Format::OpenAiStrict, Format::Mcp] {
        let first = format.listing(&table);
        c.bench_function(&format!("listing/{format:?}"), |b| {
            b.iter(|| assert_eq!(format.listing(&table).len(), first.len()))
        });
    }
}

fn plans(c: &mut Criterion) {
    let link = |name: &str| TopLevel::Link { name: name.into(), target: format!("usr/{name}") };
    let directory = |name: &str| TopLevel::Directory { name: name.into() };
    let mut top_level: Vec<_> = ["bin", "lib", "lib64", "sbin"].map(link).into();
    top_level
        .extend(["dev", "etc", "home", "opt", "proc", "root", "run", "srv", "sys", "tmp", "usr", "var"].map(directory));
    let rules = Rules {
        ceilings: Config::default().ceilings,
        allow_degraded: false,
        runtime_directories: Vec::new(),
        box_id: BOX_ID_DEFAULT,
        top_level,
    };
    let facts = HostFacts::complete();
    for level in [Level::Standard, Level::Strict] {
        let ask = Ask { level, limits: LimitRequest::default() };
        c.bench_function(&format!("plan/{level}"), |b| {
            b.iter(|| assert!(plan(black_box(&ask), &rules, &facts).is_ok()));
        });
    }
    let request = LimitRequest { memory_bytes: Some(1 << 28), wall_ms: Some(5000), ..LimitRequest::default() };
    c.bench_function("plan/limits", |b| {
        b.iter(|| assert!(resolve_limits(Level::Standard, black_box(&request), &rules.ceilings).is_ok()));
    });
    c.bench_function("plan/command", |b| {
        b.iter(|| {
            let env = environment(&[], black_box(&[]));
            let argv = ["/usr/bin/bash", "--norc", "/proc/self/fd/3"].map(str::to_owned).to_vec();
            assert!(Command::new(argv, env, "/workspace".into(), 1).is_ok());
        });
    });
    let id = SandboxId::from_random([7; 16]).to_string();
    c.bench_function("plan/sandbox_id", |b| b.iter(|| assert!(black_box(&id).parse::<SandboxId>().is_ok())));
}

fn wire(c: &mut Criterion) {
    let id = SandboxId::from_random([7; 16]).to_string();
    let create = Request {
        seq: 1,
        verb: Verb::Create(Create {
            id: id.clone(),
            level: LevelWire::Standard,
            runtime: "bash".into(),
            volumes: Vec::new(),
            limits: LimitsWire { wall_ms: Some(30_000), ..LimitsWire::default() },
            lifetime: LifetimeWire::Call,
        }),
    };
    let exec = Request {
        seq: 2,
        verb: Verb::Exec(Exec {
            id,
            argv: ["/usr/bin/bash", "--norc", "/proc/self/fd/3"].map(str::to_owned).to_vec(),
            env: environment(&[], &[]),
            cwd: "/workspace".into(),
            wall_ms: 30_000,
        }),
    };
    let names = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let created = FromMonitor::Reply {
        seq: 1,
        reply: Reply::Created(Box::new(CreatedWire {
            enforced: EnforcedWire {
                uid: 1_879_048_192,
                gid: 1_879_048_192,
                namespaces: names(&["user", "pid", "mount", "net", "ipc", "uts", "cgroup", "time"]),
                private_root: true,
                host_network: false,
                effective_capabilities: Vec::new(),
                bounding_capabilities: Vec::new(),
                no_new_privs: true,
                seccomp_profile: "standard".into(),
                seccomp_sha256: "f".repeat(64),
                denials_recorded: true,
                cgroup_version: 2,
                cgroup_controllers: names(&["cpu", "memory", "pids"]),
                memory_max_bytes: Some(1 << 29),
                swap_max_bytes: Some(0),
                oom_group: Some(true),
                pids_max: Some(128),
                cpu_max: Some((100_000, 100_000)),
                volumes: Vec::new(),
            },
            degraded: Vec::new(),
            limits: GrantedWire {
                memory_bytes: 1 << 29,
                cpu_centipercent: 10_000,
                cpu_time_ms: 30_000,
                wall_ms: 30_000,
                file_size_bytes: 100 << 20,
                network_requests: Some(0),
                pids: 128,
                open_files: 1024,
                output_bytes: 1 << 20,
            },
        })),
    };
    let mut group = c.benchmark_group("wire");
    for (name, request) in [("create", create), ("exec", exec)] {
        let packet = encode(&request).expect("it fits");
        group.bench_function(format!("encode_{name}"), |b| b.iter(|| encode(black_box(&request))));
        group.bench_function(format!("decode_{name}"), |b| {
            b.iter(|| assert!(decode::<Request>(black_box(&packet)).is_ok()));
        });
    }
    let packet = encode(&created).expect("it fits");
    group.bench_function("encode_created", |b| b.iter(|| encode(black_box(&created))));
    group.bench_function("decode_created", |b| {
        b.iter(|| assert!(decode::<FromMonitor>(black_box(&packet)).is_ok()));
    });
    group.finish();
}

criterion_group! {
    name = pieces;
    config = Criterion::default().without_plots();
    targets = validate, checked, registry, plans, wire
}
criterion_main!(pieces);
