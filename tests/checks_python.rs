//! The checks of Python against snippets that other people wrote to show what libraries do, and against disguises.
//!
//! The snippets are the examples in the docstrings of what is installed here: the standard library's, numpy's, pandas'. None is
//! kept in this repository.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use sandkeep::checks::{Blocked, Language, Script, rules, screen};
use sandkeep::config::Config;
use sandkeep::spec::Level;

fn screened(code: &str) -> Result<(), Blocked> {
    let script = Script { language: Language::Python, code, stdin: "", env: &[], cwd: "/workspace" };
    screen(&script, Level::Standard, &Config::default().checks)
}

/// One docstring's examples a line, with what CPython's own parser finds in them.
const EXAMPLES: &str = r#"
import ast, doctest, glob, json, sys, warnings
warnings.simplefilter("ignore")
roots = [p for p in sys.path if p.endswith("dist-packages") or "/python3." in p and p[-1].isdigit()]
files = sorted(f for r in roots for d in ("*.py", "json/*.py", "collections/*.py", "test/test_generators.py", "test/test_genexps.py",
               "numpy/*.py", "numpy/lib/*.py", "numpy/core/*.py", "pandas/core/*.py") for f in glob.glob(r + "/" + d, recursive=True))
seen = set()
for f in files:
    try:
        tree = ast.parse(open(f, encoding="utf-8").read())
    except (SyntaxError, UnicodeDecodeError, ValueError):
        continue
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            continue
        text = ast.get_docstring(node)
        if not text or ">>>" not in text:
            continue
        try:
            code = "".join(e.source for e in doctest.DocTestParser().get_examples(text))
            found = ast.parse(code)
        except (SyntaxError, ValueError):
            continue
        if not code or code in seen:
            continue
        seen.add(code)
        modules, attributes, names = [], [], set()
        for n in ast.walk(found):
            if isinstance(n, ast.Import):
                modules += [a.name for a in n.names]
            elif isinstance(n, ast.ImportFrom):
                modules.append(n.module or "")
            elif isinstance(n, ast.Attribute):
                attributes.append(n.attr)
            elif isinstance(n, ast.Name):
                names.add(n.id)
        print(json.dumps([f + ":" + str(getattr(node, "name", "")), code, modules, attributes, sorted(names)]))
"#;

#[test]
fn ordinary_snippets_are_refused_for_what_they_hold_alone() {
    let out = Command::new("/usr/bin/python3").args(["-c", EXAMPLES]).stderr(Stdio::inherit()).output().unwrap();
    let allowed = |module: &str| {
        let top = module.split('.').next().unwrap_or_default();
        screened(&format!("import {top}")).is_ok()
    };
    let blocked_names = |rule: &str, name: &str| {
        let code = if rule == "python/builtins" { name.to_owned() } else { format!("x.{name}") };
        screened(&code).is_err_and(|blocked| blocked.rule == rule)
    };
    let (mut snippets, mut wrong) = (0, Vec::new());
    let mut by_rule: BTreeMap<String, usize> = BTreeMap::new();
    for line in String::from_utf8(out.stdout).unwrap().lines() {
        type Row = (String, String, Vec<String>, Vec<String>, Vec<String>);
        let (place, code, modules, attributes, names): Row = serde_json::from_str(line).unwrap();
        snippets += 1;
        let Err(blocked) = screened(&code) else { continue };
        *by_rule.entry(blocked.rule.clone()).or_default() += 1;
        let is_there = match blocked.rule.as_str() {
            "python/modules" => modules.iter().any(|module| !allowed(module)),
            rule @ "python/builtins" => names.iter().any(|name| blocked_names(rule, name)),
            rule @ "python/attributes" => attributes.iter().any(|name| blocked_names(rule, name)),
            _ => false,
        };
        if !is_there {
            wrong.push(format!("{place}: {blocked}\n{code}"));
        }
    }
    println!("{snippets} snippets, refused {by_rule:?}, for nothing {}", wrong.len());
    assert!(snippets >= 300, "{snippets}");
    assert!(wrong.len() * 100 <= snippets, "{}", wrong.join("\n"));
    println!("{}", wrong.join("\n"));
}

/// What becomes of a disguise.
enum By {
    Rule(&'static str),
    /// The check before the run lets it through; the interpreter refuses it with this exception.
    Interpreter(&'static str),
    /// Both let it through, and the sandbox holds: what it prints then.
    Sandbox(&'static str),
}

const MODULES: By = By::Rule("python/modules");
const BUILTINS: By = By::Rule("python/builtins");
const ATTRIBUTES: By = By::Rule("python/attributes");

/// Of each, what it would do unseen is to reach `os`, or what leads there.
const DISGUISES: &[(&str, By)] = &[
    // Imports.
    ("import os; os.system('id')", MODULES),
    ("import math, os as m", MODULES),
    ("import os.path", MODULES),
    ("from os import *", MODULES),
    ("from os.path import os", MODULES),
    ("def f():\n  import subprocess as json", MODULES),
    ("if 0: pass\nelse: import socket", MODULES),
    ("try: import sys\nfinally: pass", MODULES),
    ("x = 1;import\tctypes", MODULES),
    ("import \\\nos", MODULES),
    ("from subprocess import (\n  # a comment )\n  run as r\n)", MODULES),
    ("# coding: rot13\nvzcbeg bf\nimport os", MODULES),
    ("x = 1 # hidden\rimport os", MODULES),
    ("'''a''';import os", MODULES),
    ("class A:\n  x: int = 1; import multiprocessing", MODULES),
    ("match 1:\n  case 1: import shutil", MODULES),
    ("with open('x') as f: import pty", MODULES),
    ("import 𝒐𝒔", MODULES),
    ("import importlib; importlib.import_module('o' 's')", MODULES),
    ("lambda: 0; import os", MODULES),
    ("import builtins; builtins.eval('1')", MODULES),
    ("@(lambda f: f)\ndef g(): import os", MODULES),
    // Through modules that may be imported.
    ("import uuid\nuuid.os.system('id')", MODULES),
    ("import random as r; r._os.urandom(1)", MODULES),
    ("from statistics import sys", MODULES),
    ("import statistics\nstatistics.random._os", MODULES),
    ("import json\njson.codecs.builtins.eval('1')", MODULES),
    ("import numpy\nnumpy.ctypeslib.ctypes.CDLL(None)", MODULES),
    ("import pandas as pd\npd.io.common.os.getcwd()", MODULES),
    ("import uuid\nvars(uuid)['os']", MODULES),
    ("import uuid\nuuid.__dict__['o' + 's']", MODULES),
    ("import uuid as u\nm = u\ngetattr(m, f'{chr(111)}s')", MODULES),
    ("from uuid import *\nos.listdir('/')", MODULES),
    // Builtins.
    ("eval('__imp' + 'ort__(\"os\")')", BUILTINS),
    ("exec(bytes([105, 109, 112, 111, 114, 116]))", BUILTINS),
    ("e = eval; e('1')", BUILTINS),
    ("(e := exec)('1')", BUILTINS),
    ("[eval][0]('1')", BUILTINS),
    ("{'a': exec}['a']('1')", BUILTINS),
    ("[f('1') for f in [eval]]", BUILTINS),
    ("print(*map(eval, ['1']))", BUILTINS),
    ("def f(x, g=eval): return g(x)", BUILTINS),
    ("@eval\ndef f(): pass", BUILTINS),
    ("f'{__import__(\"os\").getcwd()}'", BUILTINS),
    ("f'''{f\"{eval('1')}\"}'''", BUILTINS),
    ("x = 5 if eval('1') else 6", BUILTINS),
    ("__builtins__.__dict__['ex' 'ec']", BUILTINS),
    ("globals()['__builtins__']", BUILTINS),
    ("globals().get('__built' + 'ins__')", BUILTINS),
    ("ｅｘｅｃ('1')", BUILTINS),
    ("compile('import os', 'x', 'exec')", BUILTINS),
    ("__loader__.load_module('os')", BUILTINS),
    ("__spec__.loader", BUILTINS),
    ("assert exec('1')", BUILTINS),
    ("lambda: (yield __import__('os'))", BUILTINS),
    ("while breakpoint(): pass", BUILTINS),
    // Attributes.
    ("().__class__.__base__.__subclasses__()", ATTRIBUTES),
    ("[].append.__self__", ATTRIBUTES),
    ("(lambda: 0).__globals__['__builtins__']", ATTRIBUTES),
    ("print.__self__.eval('1')", ATTRIBUTES),
    ("getattr(1, '__cl' + 'ass__')", ATTRIBUTES),
    ("getattr(1, '__class' '__')", ATTRIBUTES),
    ("getattr(1, '%s%s' % ('__cla', 'ss__'))", ATTRIBUTES),
    ("getattr(1, '{}ss{}'.format('__cla', '__'))", ATTRIBUTES),
    ("getattr(1, '__ssalc__'[::-1])", ATTRIBUTES),
    ("getattr(1, ''.join(['__', 'class', '__']))", ATTRIBUTES),
    ("getattr(1, ''.join(map(chr, [95, 95, 99, 108, 97, 115, 115, 95, 95])))", ATTRIBUTES),
    ("getattr(1, '\\x5f\\x5fclass\\u005f_')", ATTRIBUTES),
    ("getattr(1, '__CLASS__'.lower())", ATTRIBUTES),
    ("getattr(1, '__clXss__'.replace('X', 'a'))", ATTRIBUTES),
    ("getattr(1, bytes.fromhex('5f5f636c6173735f5f').decode())", ATTRIBUTES),
    ("import base64\ngetattr(1, base64.b64decode('X19jbGFzc19f').decode())", ATTRIBUTES),
    ("g = getattr\nn = '__class__'\ng(1, n)", ATTRIBUTES),
    ("a, b = '__cla', 'ss__'\ngetattr(1, a + b)", ATTRIBUTES),
    ("n = '__cla'\nn += 'ss__'\ngetattr(1, n)", ATTRIBUTES),
    ("'{0.__class__.__mro__}'.format(1)", ATTRIBUTES),
    ("'{x.__globals__[os]}'.format_map({'x': print})", ATTRIBUTES),
    ("import operator\noperator.attrgetter('__class__')(1)", ATTRIBUTES),
    ("from operator import methodcaller as m\nm('__subclasses__')(object)", ATTRIBUTES),
    ("match 1:\n  case int(__class__=c): print(c)", ATTRIBUTES),
    ("f'{1 .__class__!r:>{().__class__}}'", ATTRIBUTES),
    ("1..__class__", ATTRIBUTES),
    ("def g(): yield\ng().gi_frame.f_back.f_globals", ATTRIBUTES),
    ("try: 1/0\nexcept Exception as e: e.__traceback__.tb_frame", ATTRIBUTES),
    ("object.__getattribute__(1, '__class__')", ATTRIBUTES),
    ("del x.__globals__", ATTRIBUTES),
    ("for x.__class__ in [1]: pass", ATTRIBUTES),
    // Refused by the interpreter.
    ("n = input.__name__[:0] + '__class__'\nprint(getattr(1, n))", By::Interpreter("AttributeError")),
    (
        "n = ''\nfor c in [95, 95, 99, 108, 97, 115, 115, 95, 95]: n += chr(c)\nprint(getattr(1, n))",
        By::Interpreter("AttributeError"),
    ),
    ("k = [k for k in globals() if 'built' in k][0]\nprint(globals()[k]['ex' + 'ec'])", By::Interpreter("KeyError")),
    (
        "k = [k for k in globals() if 'built' in k][0]\nf = [v for n, v in globals()[k].items() if 'imp' in n][0]\nf('os')",
        By::Interpreter("ImportError"),
    ),
    (
        "def f(x: '__import__(\"os\").system(\"id\")'): pass\nimport typing\ntyping.get_type_hints(f)",
        By::Interpreter("ImportError"),
    ),
    (
        "import uuid\nfor n in dir(uuid):\n  if n == 'o' + 's': print(getattr(uuid, n))",
        By::Interpreter("AttributeError"),
    ),
    // Left to the sandbox.
    (
        "import uuid\nm = [v for k, v in vars(uuid).items() if k == 'o' + 's'][0]\nprint(m.getuid() != 0, m.path.exists('/etc/shadow') and m.access('/etc/shadow', 4))",
        By::Sandbox("True False\n"),
    ),
    (
        "import uuid\nm = [v for k, v in vars(uuid).items() if k == 'os'][0]\nprint(m.system('rm -rf /usr 2>/dev/null') != 0, m.path.exists('/usr/bin/env'))",
        By::Sandbox("True True\n"),
    ),
    (
        "import random\nm = [v for k, v in vars(random).items() if k == '_os'][0]\nprint(m.popen('cat /proc/net/route').read().count(chr(10)))",
        By::Sandbox("1\n"),
    ),
    ("print(open('/proc/self/status').read().split('CapEff:')[1].split()[0])", By::Sandbox("0000000000000000\n")),
    ("try:\n  open('/etc/motd', 'w')\nexcept OSError as e: print(e.errno in (13, 30))", By::Sandbox("True\n")),
];

#[test]
fn disguises_are_named_or_known_to_be_left() {
    assert!(DISGUISES.len() >= 40);
    let (mut caught, mut wrong) = (0, Vec::new());
    for (code, by) in DISGUISES {
        match (by, screened(code)) {
            (By::Rule(rule), Err(blocked)) if blocked.rule == *rule => {
                println!("{rule}: {code:?}");
                caught += 1;
            }
            (By::Interpreter(error), Ok(())) => println!("refused by the interpreter ({error}): {code:?}"),
            (By::Sandbox(_), Ok(())) => println!("left to the sandbox: {code:?}"),
            (By::Rule(rule), found) => wrong.push(format!("{code:?} should meet {rule}: {found:?}")),
            (_, Err(blocked)) => wrong.push(format!("{code:?} is found: {blocked}")),
        }
    }
    println!("{caught} of {} disguises are found before the run", DISGUISES.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[path = "support/daemon.rs"]
mod support;

mod refused {
    use serde_json::{Value, json};

    use super::support::*;
    use super::*;

    fn call(code: &str) -> Value {
        json!({ "tool_name": "python", "parameters": { "code": code } })
    }

    #[test]
    fn the_journeys_reply_and_its_checks() {
        let daemon = Daemon::start("", &[]);
        let reply = daemon.execute(call("import math\nresult = math.sqrt(16)\nprint(result)"));
        assert_eq!(
            serde_json::to_string(&reply.body["result"]).unwrap(),
            r#"{"output":"4.0\n","variables":{"result":4.0},"success":true}"#
        );
        let modules = "math json datetime re collections itertools functools string random statistics decimal fractions uuid hashlib \
                       base64 typing dataclasses enum copy heapq bisect operator time";
        for module in modules.split_whitespace() {
            let reply = daemon.execute(call(&format!("import {module}\nfrom {module} import *\nx = 1")));
            assert_eq!(reply.body["success"], true, "{module}: {}", reply.body);
        }
        for module in "os subprocess sys shutil socket ctypes multiprocessing importlib".split_whitespace() {
            let reply = daemon.execute(call(&format!("x = 1\n  \nif x: import {module}")));
            assert_eq!((reply.status, &reply.body["code"]), (403, &json!("blocked")), "{module}: {}", reply.body);
            assert_eq!(reply.body["rule"], "python/modules", "{module}");
            assert_eq!((&reply.body["line"], &reply.body["column"]), (&json!(3), &json!(14)), "{module}");
            assert!(reply.body["hint"].as_str().unwrap().contains("math, json"), "{}", reply.body);
        }
        for (code, rule) in [
            ("eval('1')", "python/builtins"),
            ("exec('1')", "python/builtins"),
            ("__import__('os')", "python/builtins"),
            ("__builtins__", "python/builtins"),
            ("().__class__", "python/attributes"),
            ("print.__globals__", "python/attributes"),
            (&"x = 1\n".repeat(1001), "python/lines"),
        ] {
            let reply = daemon.execute(call(code));
            assert_eq!((reply.status, &reply.body["rule"]), (403, &json!(rule)), "{}", reply.body);
        }
        assert_eq!(daemon.execute(call(&"x = 1\n".repeat(1000))).status, 200);
        // What does not parse is Python's own to tell.
        let reply = daemon.execute(call("if"));
        assert_eq!(
            (reply.status, &reply.body["result"]["error"]["name"]),
            (200, &json!("SyntaxError")),
            "{}",
            reply.body
        );
    }

    #[test]
    fn what_no_rule_sees_is_refused_inside_or_held() {
        let daemon = Daemon::start("", &[]);
        for (code, by) in DISGUISES {
            match by {
                By::Rule(_) => {}
                By::Interpreter(name) => {
                    let reply = daemon.execute(call(code));
                    assert_eq!((reply.status, &reply.body["success"]), (200, &json!(false)), "{code}: {}", reply.body);
                    assert_eq!(reply.body["result"]["error"]["name"], *name, "{code}: {}", reply.body);
                }
                By::Sandbox(printed) => {
                    let reply = daemon.execute(call(code));
                    assert_eq!(reply.body["result"]["output"], *printed, "{code}: {}", reply.body);
                }
            }
        }
    }

    /// Their own imports are their business, whatever of them happens while the caller's code runs.
    #[test]
    fn modules_that_may_be_imported_work() {
        let daemon = Daemon::start("", &[]);
        let works = |code: &str| {
            let reply = daemon.execute(call(code));
            assert_eq!(reply.body["success"], true, "{code}: {}", reply.body);
            reply.body["result"]["output"].as_str().unwrap().to_owned()
        };
        let out = works(
            "import datetime, time, json\nfrom dataclasses import dataclass\nfrom enum import Enum\nfrom collections import namedtuple\n\
             @dataclass\nclass P:\n    x: int\nclass C(Enum):\n    A = 1\nprint(datetime.datetime.strptime('2020-02-03', '%Y-%m-%d').day, \
             time.strptime('3', '%d').tm_mday, P(1), C.A.name, namedtuple('N', 'a')(2).a, f'{datetime.date(2020, 1, 2):%d}')",
        );
        assert_eq!(out, "3 3 P(x=1) A 2 02\n");
        if std::path::Path::new("/usr/lib/python3/dist-packages/pandas").exists() {
            let out = works(
                "import numpy as np, pandas as pd\ndf = pd.DataFrame({'a': [3, 1], 'b': list('xy')})\n\
                 print(np.linalg.norm([3, 4]), df.sort_values('a').eval('c = a + 1')['c'].sum(), np.random.default_rng(1).integers(1, 2))\n\
                 df.to_csv('x.csv')\nprint(len(pd.read_csv('x.csv')), df.groupby('b').sum().shape, str(pd.to_datetime('2020-01-02').date()))\n",
            );
            assert_eq!(out, "5.0 6 1\n2 (2, 1) 2020-01-02\n");
        }
    }

    #[test]
    fn the_operator_adds_modules_and_turns_rules_off() {
        let daemon = Daemon::start("[checks]\npython_modules = ['os', 'platform']\noff = ['python/attributes']\n", &[]);
        let reply = daemon.execute(call("import os, platform\nprint(os.getcwd(), ().__class__.__name__)"));
        assert_eq!(reply.body["result"]["output"], "/workspace tuple\n", "{}", reply.body);
        assert_eq!(daemon.execute(call("import sys")).body["rule"], "python/modules");
        let all = daemon.request("GET", "/api/v1/capabilities", None).body["rules"].clone();
        let on = |name: &str| all.as_array().unwrap().iter().find(|rule| rule["rule"] == name).unwrap()["on"].clone();
        assert_eq!((on("python/modules"), on("python/attributes")), (json!(true), json!(false)), "{all}");
        let daemon = Daemon::start("[checks]\npython = false\n", &[]);
        let reply = daemon.execute(call("import os, sys\nprint(eval('1'), ().__class__)"));
        assert_eq!(reply.body["result"]["output"], "1 <class 'tuple'>\n", "{}", reply.body);
    }

    #[test]
    fn rules_are_listed_in_their_order() {
        assert_eq!(rules().iter().filter(|rule| rule.name.starts_with("python/")).count(), 4);
    }
}
