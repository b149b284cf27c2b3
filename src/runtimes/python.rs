//! Python: a constant driver runs the code of descriptor 4 and hands variables and error back through descriptor 5.

use serde_json::{Map, Value};

/// The program by its place: the caller's own PATH is for what the code starts. `-I`: nothing of the environment or of the user's directories changes the interpreter. `-X utf8`: text is UTF-8
/// whatever the locale inside. Site packages stay importable.
const FLAGS: [&str; 5] = ["/usr/bin/python3", "-I", "-X", "utf8", "-c"];
const DRIVER: &str = include_str!("driver.py");

const DEPTH_MAX: usize = 16;
const NAMES_MAX: usize = 1000;
const VALUE_BYTES_MAX: usize = 64 * 1024;
const VARIABLES_BYTES_MAX: usize = 256 * 1024;
/// Of the traceback, the driver's own cut; escapes can make it longer on the way.
const TEXT_BYTES_MAX: usize = 96 * 1024;
/// The largest document that the driver writes: variables, a traceback in which every byte is escaped, and the frame.
pub const RESULT_BYTES_MAX: usize = 1024 * 1024;

pub(super) fn argv() -> Vec<String> {
    let mut argv: Vec<String> = FLAGS.map(str::to_owned).into();
    argv.push(DRIVER.to_owned());
    argv
}

/// What the interpreter refuses while it runs: of each kind the rule's name and the names, the only ones of modules.
#[derive(Debug, Clone, Copy, Default)]
pub struct Restrictions<'a> {
    pub modules: Option<(&'a str, &'a [String])>,
    pub builtins: Option<(&'a str, &'a [String])>,
    pub attributes: Option<(&'a str, &'a [String])>,
}

/// `source` as the driver reads it. Names hold neither blanks nor ends of lines: rule files and settings see to that.
pub fn code(source: &[u8], restrictions: &Restrictions<'_>) -> Vec<u8> {
    let field = |one: Option<(&str, &[String])>| {
        one.map_or_else(String::new, |(rule, names)| {
            let mut all = rule.to_owned();
            for name in names {
                all.push(' ');
                all.push_str(name);
            }
            all
        })
    };
    let Restrictions { modules, builtins, attributes } = *restrictions;
    let mut code = format!("{}\t{}\t{}\n", field(modules), field(builtins), field(attributes)).into_bytes();
    code.extend_from_slice(source);
    code
}

/// What the code left behind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Left {
    /// JSON values by name.
    pub variables: Map<String, Value>,
    pub truncated: bool,
    pub error: Option<Raised>,
}

/// The exception that ended the code; `SystemExit` for `sys.exit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raised {
    pub name: String,
    pub value: String,
    pub traceback: String,
}

/// Reads the driver's document. Whoever runs inside can write there, so every cap is checked again: what does not keep to
/// them is left out and `truncated` says so. `None`: there is no whole document, as after a kill.
pub fn left(document: &[u8]) -> Option<Left> {
    if document.is_empty() || document.len() > RESULT_BYTES_MAX {
        return None;
    }
    let Ok(Value::Object(mut top)) = serde_json::from_slice(document) else { return None };
    let Some(Value::Object(found)) = top.remove("variables") else { return None };
    let mut truncated = top.get("truncated").and_then(Value::as_bool).unwrap_or(true);
    let mut variables = Map::new();
    let mut total = 0;
    for (name, value) in found {
        let bytes = name.len() + value.to_string().len();
        let fits = bytes <= VALUE_BYTES_MAX + name.len() + SUBSTITUTE_SLACK
            && total + bytes <= VARIABLES_BYTES_MAX
            && variables.len() < NAMES_MAX;
        if name.starts_with('_') || !fits || depth(&value) > DEPTH_MAX + 1 {
            truncated = true;
            continue;
        }
        total += bytes;
        variables.insert(name, value);
    }
    let error = match top.remove("error") {
        Some(Value::Object(error)) => Some(Raised {
            name: text(&error, "name", 256),
            value: text(&error, "value", 16 * 1024),
            traceback: text(&error, "traceback", TEXT_BYTES_MAX),
        }),
        _ => None,
    };
    Some(Left { variables, truncated, error })
}

/// The driver counts a value's bytes as Python writes them; serde_json may write a float or an escape a little longer.
const SUBSTITUTE_SLACK: usize = 8 * 1024;

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(items) => 1 + items.values().map(depth).max().unwrap_or(0),
        _ => 1,
    }
}

fn text(error: &Map<String, Value>, key: &str, max: usize) -> String {
    let text = error.get(key).and_then(Value::as_str).unwrap_or_default();
    text[..text.floor_char_boundary(max)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::process::{Command, Stdio};

    struct Ran {
        stdout: String,
        stderr: String,
        code: Option<i32>,
        left: Option<Left>,
    }

    /// Runs `source` natively, with a small shell in front that puts the descriptors where a sandbox would.
    fn run(source: &str) -> Ran {
        restrained(source, &Restrictions::default())
    }

    fn restrained(source: &str, restrictions: &Restrictions<'_>) -> Ran {
        let code = code(source.as_bytes(), restrictions);
        let mut invocation = super::super::Runtime::Python.invocation(&code).unwrap();
        let at = |fd: i32| format!("/proc/{}/fd/{fd}", std::process::id());
        let mut child = Command::new("bash")
            .args([
                "-c",
                "exec 3<\"$GATE\" 4<\"$CODE\" 5>\"$RESULT\"; unset GATE CODE RESULT; echo >&2; exec \"$@\"",
                "outer",
            ])
            .args(&invocation.argv)
            .env("GATE", at(invocation.extra[0].as_raw_fd()))
            .env("CODE", at(invocation.extra[1].as_raw_fd()))
            .env("RESULT", at(invocation.extra[2].as_raw_fd()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The shell has opened its own write end once it says so; then ours must go, or the pipe never ends.
        let mut stderr = child.stderr.take().unwrap();
        stderr.read_exact(&mut [0]).unwrap();
        invocation.extra.clear();
        let mut pipe = File::from(invocation.result.take().unwrap());
        let reader = std::thread::spawn(move || {
            let mut document = Vec::new();
            pipe.read_to_end(&mut document).unwrap();
            document
        });
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        let out = child.wait_with_output().unwrap();
        Ran {
            stdout: String::from_utf8(out.stdout).unwrap(),
            stderr: errors.join().unwrap(),
            code: out.status.code(),
            left: left(&reader.join().unwrap()),
        }
    }

    fn variables(source: &str) -> Value {
        Value::Object(run(source).left.unwrap().variables)
    }

    #[test]
    fn the_journeys_code_leaves_exactly_its_result() {
        let ran = run("import math\nresult = math.sqrt(16)\nprint(result)");
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str(), ran.code), ("4.0\n", "", Some(0)));
        let left = ran.left.unwrap();
        assert_eq!(serde_json::to_string(&left.variables).unwrap(), r#"{"result":4.0}"#);
        assert!(!left.truncated && left.error.is_none());
    }

    #[test]
    fn json_holds_what_json_can_and_the_rest_is_described() {
        let source = r#"
import sys, os.path as p, enum
from collections import OrderedDict, namedtuple
a, b, c, d = None, True, 2**53, -1.5
e, f, g = 2**53 + 1, float("nan"), float("-inf")
s = "é\"\n\0\ud800"
l = [1, (2, 3), {"k": [None]}]
o = {1: 2}
od = OrderedDict(x=1)
class Bad:
    def __repr__(self): raise RuntimeError("no")
bad = Bad()
cycle = []; cycle.append(cycle)
_hidden = 1
def fn(): pass
lam = lambda: 0
ln = len
w = {"inner": {3}}
"#;
        let v = variables(source);
        assert_eq!(v["a"], json!(null));
        assert_eq!((&v["b"], &v["c"], &v["d"]), (&json!(true), &json!(9007199254740992u64), &json!(-1.5)));
        assert_eq!(v["e"], json!({"type": "int", "repr": "9007199254740993"}));
        assert_eq!(v["f"], json!({"type": "float", "repr": "nan"}));
        assert_eq!(v["g"]["repr"], "-inf");
        assert_eq!(v["s"], json!("é\"\n\0\\ud800"));
        assert_eq!(v["l"], json!([1, [2, 3], {"k": [null]}]));
        assert_eq!(v["o"], json!({"type": "dict", "repr": "{1: 2}"}));
        assert_eq!(v["od"], json!({"x": 1}));
        assert_eq!(v["bad"]["type"], "__main__.Bad");
        assert!(v["cycle"].is_array(), "{}", v["cycle"]);
        assert_eq!(v["cycle"][0]["type"], "list");
        assert_eq!(v["w"], json!({"inner": {"type": "set", "repr": "{3}"}}));
        for name in ["_hidden", "fn", "lam", "ln", "Bad", "sys", "p", "OrderedDict", "enum", "run"] {
            assert!(v.get(name).is_none(), "{name}");
        }
    }

    #[test]
    fn caps_hold_and_are_flagged() {
        for (source, check) in [
            ("x = 'a' * 70000; y = 1", "x"),
            ("x = list(range(100000)); y = 1", "x"),
            ("x = []\nfor _ in range(1000): x = [x]\ny = 1", ""),
            ("x = {str(i): i for i in range(100000)}; y = 1", "x"),
            ("x = [0]\nfor _ in range(12): x = [x] * 9\ny = 1", "x"),
        ] {
            let left = run(source).left.unwrap();
            assert!(left.truncated, "{source}");
            assert_eq!(left.variables["y"], 1, "{source}");
            if !check.is_empty() {
                assert!(left.variables[check]["repr"].as_str().unwrap().len() < 3000, "{source}");
            }
        }
        let left = run("for i in range(1500): globals()[f'v{i}'] = i").left.unwrap();
        assert!(left.truncated);
        assert_eq!(left.variables.len(), 1000);
        let left = run("for i in range(10): globals()[f'v{i}'] = 'x' * 60000").left.unwrap();
        assert!(left.truncated && left.variables.len() == 5, "i and four of the strings");
    }

    #[test]
    fn an_exception_keeps_output_and_variables_and_shows_the_callers_lines() {
        let ran = run("x = 1\nprint('before')\ndef f():\n    return 1 / 0\nf()\nx = 2");
        let left = ran.left.unwrap();
        assert_eq!((ran.stdout.as_str(), ran.code), ("before\n", Some(1)));
        assert_eq!(left.variables["x"], 1);
        let error = left.error.unwrap();
        assert_eq!((error.name.as_str(), error.value.as_str()), ("ZeroDivisionError", "division by zero"));
        assert!(
            error
                .traceback
                .starts_with("Traceback (most recent call last):\n  File \"code.py\", line 5, in <module>\n    f()\n")
        );
        assert!(error.traceback.contains("return 1 / 0"), "{}", error.traceback);
        assert!(!error.traceback.contains("<string>"), "{}", error.traceback);
        assert_eq!(ran.stderr, error.traceback);
    }

    #[test]
    fn every_way_to_end_is_told() {
        for (source, code, name) in [
            ("import sys; sys.exit()", 0, "SystemExit"),
            ("import sys; sys.exit(3)", 3, "SystemExit"),
            ("import sys; sys.exit('no')", 1, "SystemExit"),
            ("raise KeyboardInterrupt", 130, "KeyboardInterrupt"),
            ("def f(): f()\nf()", 1, "RecursionError"),
            ("if", 1, "SyntaxError"),
            ("x = 1\n\ty = 2", 1, "IndentationError"),
            ("class E(Exception):\n  def __str__(self): raise E\nraise E", 1, "E"),
            ("(".repeat(5000).leak(), 1, ""),
        ] {
            let ran = run(source);
            assert_eq!(ran.code, Some(code), "{source}: {}", ran.stderr);
            let error = ran.left.unwrap().error.unwrap();
            assert!(name.is_empty() || error.name == name, "{source}: {error:?}");
            assert!(!error.traceback.contains("in run\n"), "{}", error.traceback);
        }
        let gone = run("import os; x = 1; print('a', flush=True); os._exit(5)");
        assert_eq!((gone.code, gone.left, gone.stdout.as_str()), (Some(5), None, "a\n"));
    }

    /// The caller's code, and nothing that it calls for, is held to the lists.
    #[test]
    fn restrictions_hold_while_the_code_runs() {
        let names = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let modules = names(&[
            "math",
            "json",
            "datetime",
            "time",
            "re",
            "collections",
            "dataclasses",
            "typing",
            "uuid",
            "random",
            "copy",
        ]);
        let builtins = names(&["eval", "exec", "__import__"]);
        let attributes = names(&["__class__", "__globals__", "__reduce__"]);
        let restrictions = Restrictions {
            modules: Some(("python/modules", &modules)),
            builtins: Some(("python/builtins", &builtins)),
            attributes: Some(("python/attributes", &attributes)),
        };
        let run = |source: &str| restrained(source, &restrictions);
        for source in [
            "import math\nresult = math.sqrt(16)\nprint(result)",
            "import json, datetime, re\nprint(datetime.datetime.strptime('2020', '%Y').year, json.dumps([1]))",
            "import time\nprint(time.strptime('2020', '%Y').tm_year)",
            "from collections.abc import Mapping\nfrom collections import *\nprint(Counter('aab')['a'])",
            "from dataclasses import dataclass, field\nfrom typing import *\n@dataclass\nclass A:\n    x: int = 1\n    y: \
             List[int] = field(default_factory=list)\nprint(A(), get_type_hints(A))",
            "import collections\nP = collections.namedtuple('P', 'x y')\nprint(P(1, 2), getattr(P(1, 2), 'x'), getattr(3, 'no', 4))",
            "import copy, uuid\nclass A:\n    def __reduce__(self): return A, ()\nprint(type(copy.deepcopy(A())), uuid.UUID(int=1))",
            "class B:\n    def __init__(self): super().__init__()\nB(); x = 1\nsetattr(B, 'z', 2); print(B.z); delattr(B, 'z')",
            "from uuid import *\nprint(uuid4())",
        ] {
            let ran = run(source);
            assert_eq!((ran.stderr.as_str(), ran.code), ("", Some(0)), "{source}");
            assert!(ran.left.unwrap().error.is_none(), "{source}");
        }
        for (source, name, says) in [
            ("import os", "ImportError", "os is not among the modules that may be imported (python/modules)"),
            ("def f():\n    import os.path\nf()", "ImportError", "(python/modules)"),
            ("from uuid import os", "ImportError", "uuid.os is not"),
            ("from uuid import *\nprint(os)", "NameError", "os"),
            ("import uuid\ngetattr(uuid, 'o' + chr(115))", "AttributeError", "(python/modules)"),
            ("eval('1')", "NameError", "eval"),
            ("globals()['__builtins__']['exec']", "KeyError", "exec"),
            ("__import__('os')", "ImportError", "(python/modules)"),
            ("globals()['__builtins__']['__imp' + 'ort__']('os')", "ImportError", "(python/modules)"),
            ("__package__ = 'os'\nfrom . import path", "ImportError", "(python/modules)"),
            ("print(1)\n().__class__", "AttributeError", "'__class__' may not be used (python/attributes)"),
            (
                "class A:\n  def f(self):\n    return [x.__globals__ for x in ()]",
                "AttributeError",
                "(python/attributes)",
            ),
            ("n = input\nn = '__cla'\ngetattr((), n + 'ss__')", "AttributeError", "(python/attributes)"),
            (
                "from typing import get_type_hints\ndef f(x: '__import__(\"os\")'): pass\nget_type_hints(f)",
                "ImportError",
                "os",
            ),
        ] {
            let ran = run(source);
            let error = ran.left.unwrap_or_else(|| panic!("{source}: {}", ran.stderr)).error.unwrap();
            assert_eq!(error.name, name, "{source}: {error:?}");
            assert!(error.value.contains(says), "{source}: {error:?}");
            for own in ["in importing", "in getting", "in hidden", "in check", "in run"] {
                assert!(!error.traceback.contains(own), "{source}: {}", error.traceback);
            }
        }
        // Control.
        assert_eq!(super::tests::run("import os\nprint(eval('1'), ().__class__)").stdout, "1 <class 'tuple'>\n");
    }

    #[test]
    fn threads_atexit_and_forks_end_as_after_any_script() {
        let ran = run("import atexit, threading, time, os\n\
             atexit.register(print, 'at exit')\n\
             threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()\n\
             pid = os.fork()\n\
             if pid: os.waitpid(pid, 0)\n\
             print('end', pid == 0)");
        let lines: Vec<_> = ran.stdout.lines().collect();
        assert_eq!(lines.iter().filter(|l| **l == "at exit").count(), 2, "{lines:?}");
        assert!(lines.contains(&"end True") && lines.contains(&"end False") && lines.contains(&"thread"), "{lines:?}");
        assert!(ran.left.unwrap().variables["pid"].as_u64().unwrap() > 0);
    }

    #[test]
    fn the_module_is_main_and_tools_find_its_source() {
        let ran = run("import inspect, pickle\nclass C: pass\ndef f():\n    return 1\n\
             print(__name__, inspect.getsource(f).count('\\n'), type(pickle.loads(pickle.dumps(C()))).__name__)\n\
             import os; print(os.path.exists('/proc/self/fd/3'), 'run' in globals(), '__file__' in globals())");
        assert_eq!(ran.stdout, "__main__ 2 C\nFalse False False\n", "{}", ran.stderr);
    }

    #[test]
    fn a_hostile_document_is_bounded_or_refused() {
        assert_eq!(left(b""), None);
        assert_eq!(left(b"{}"), None);
        assert_eq!(left(b"{\"variables\":{}"), None);
        assert_eq!(left(&vec![b' '; RESULT_BYTES_MAX + 1]), None);
        assert_eq!(left(format!("{{\"variables\":{}", "[".repeat(100_000)).as_bytes()), None);
        let deep = format!("{{\"variables\":{{\"a\":{}{}}},\"truncated\":false}}", "[".repeat(40), "]".repeat(40));
        let got = left(deep.as_bytes()).unwrap();
        assert!(got.truncated && got.variables.is_empty());
        let big = json!({"variables": {"a": "x".repeat(100_000), "_b": 1, "c": 1}, "error": {"name": 5}});
        let got = left(big.to_string().as_bytes()).unwrap();
        assert!(got.truncated);
        assert_eq!(Value::Object(got.variables), json!({"c": 1}));
        assert_eq!(got.error.unwrap().name, "");
    }

    #[test]
    fn a_gate_that_closes_without_its_line_lets_nothing_run() {
        let run = |line: &str| {
            let script = format!("exec 3< <(printf '%s' '{line}') 4<<<$'\\nprint(1)' 5>/dev/null; exec \"$@\"");
            let out = Command::new("bash").args(["-c", &script, "outer"]).args(argv()).output().unwrap();
            (String::from_utf8(out.stdout).unwrap(), out.status.code())
        };
        assert_eq!(run(""), (String::new(), Some(70)));
        // Control.
        assert_eq!(run("\n"), ("1\n".into(), Some(0)));
    }

    #[test]
    fn the_command_fits() {
        let mut invocation = super::super::Runtime::Python.invocation(b"x").unwrap();
        let command = crate::spec::Command::new(invocation.argv.clone(), vec![], "/".into(), invocation.extra.len());
        command.unwrap();
        File::from(invocation.extra.remove(2)).write_all(b"x").unwrap();
    }
}
