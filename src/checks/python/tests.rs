//! The parser against CPython's own, and against hostile text.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::parse::parse;
use super::syntax::{After, Atom, Expr, Item, Part, Piece, Statement};

/// What both readers tell of a source: modules, and attributes as often as they are named.
#[derive(Debug, Default, PartialEq)]
struct Told {
    modules: Vec<String>,
    attributes: Vec<String>,
    names: Vec<String>,
}

impl Told {
    fn of(source: &str) -> Self {
        let mut told = Self::default();
        for statement in parse(source) {
            match statement {
                Statement::Import(all) => told.modules.extend(all.into_iter().map(|one| one.name)),
                Statement::From { module, .. } => told.modules.push(module),
                Statement::Define { header, .. } | Statement::Class { header, .. } => told.expr(&header),
                Statement::Assign { targets, value, .. } => {
                    targets.iter().for_each(|target| told.expr(target));
                    told.expr(&value);
                }
            }
        }
        told.modules.sort();
        told.attributes.sort();
        told.names.sort();
        told.names.dedup();
        told
    }

    fn expr(&mut self, expr: &Expr) {
        for part in &expr.parts {
            let Part::Operand(operand) = part else { continue };
            match &operand.atom {
                Atom::Name(name) => self.names.push(name.clone()),
                Atom::Group(_, items) => self.items(items),
                Atom::Text(literal) => {
                    for piece in &literal.pieces {
                        if let Piece::Field(expr) = piece {
                            self.expr(expr);
                        }
                    }
                }
                Atom::Number(_) => {}
            }
            for after in &operand.after {
                match after {
                    After::Attribute(_, name) => self.attributes.push(name.clone()),
                    After::Call(_, items) | After::Index(_, items) => self.items(items),
                }
            }
        }
    }

    fn items(&mut self, items: &[Item]) {
        items.iter().for_each(|item| self.expr(&item.value));
    }
}

/// CPython's view, a JSON document a line.
const AST: &str = r#"
import ast, glob, json, sys, warnings
warnings.simplefilter("ignore")
roots = [p for p in sys.path if p.endswith(("python3", "dist-packages")) or "/python3." in p and p[-1].isdigit()]
files = sorted(f for r in roots for d in ("*", "*/__init__", "test/test_[fgpu]*", "test/test_types")
               for f in glob.glob(r + "/" + d + ".py") if len(open(f, "rb").read(100_001)) <= 100_000)
for f in files:
    try:
        source = open(f, encoding="utf-8").read()
        tree = ast.parse(source)
    except (SyntaxError, UnicodeDecodeError, ValueError):
        continue
    modules, attributes, names = [], [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules.append(node.module or "")
        elif isinstance(node, ast.Attribute):
            attributes.append(node.attr)
        elif isinstance(node, ast.Name):
            names.add(node.id)
    print(json.dumps([f, source, sorted(modules), sorted(attributes), sorted(names)]))
"#;

#[test]
fn the_parser_sees_what_cpythons_sees() {
    let out = Command::new("python3").args(["-c", AST]).stderr(Stdio::inherit()).output().unwrap();
    let (mut files, mut wrong) = (0, Vec::new());
    for line in String::from_utf8(out.stdout).unwrap().lines() {
        type Row = (String, String, Vec<String>, Vec<String>, Vec<String>);
        let (file, source, modules, attributes, names): Row = serde_json::from_str(line).unwrap();
        files += 1;
        let told = Told::of(&source);
        let is_same = told.modules == modules && told.attributes == attributes;
        let missing: Vec<&String> = names.iter().filter(|name| told.names.binary_search(name).is_err()).collect();
        if !is_same || !missing.is_empty() {
            let differs = |ours: &[String], theirs: &[String]| {
                let at = ours.iter().zip(theirs).position(|(a, b)| a != b);
                format!("{}/{} {:?}", ours.len(), theirs.len(), at.map(|at| (&ours[at], &theirs[at])))
            };
            wrong.push(format!(
                "{file}: modules {}, attributes {}, names {missing:?}",
                differs(&told.modules, &modules),
                differs(&told.attributes, &attributes)
            ));
        }
    }
    println!("{files} files, {} read in another way", wrong.len());
    assert!(files >= 150, "{files}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// On a thread with a small stack: what does not fit is an abort, not a failure.
#[test]
fn hostile_text_is_bounded() {
    let repeated = [
        "(",
        "[",
        "{",
        "-",
        "not ",
        "lambda:",
        "lambda x=",
        "1+",
        "a.",
        "f(",
        "x if y else ",
        "if x:\n ",
        "f'{",
        "f\"{f'{",
        "1**",
        "await ",
        "\"",
        "'''",
        "@",
        "\\\n",
        "a(b)",
        ")",
        "\t",
        "é",
        "if 1:",
        "yield ",
        "a[",
        "*",
        "x=",
        "x:=",
        "(x:=",
        "b if ",
        "match x:\n case ",
        "[x for x in ",
        "x for x in x ",
        "import ",
        "from . import (",
        "import a,",
        "x,",
        "x=x+x;",
        "x='a'*4000;",
        "x=[x,x];",
        "x='aaaaaaaaaa';y=x+x;",
        "''.join(",
        "'%s'%",
        "'a'.replace('a','aaaaaaaa')",
        "def f(",
        "class A(",
        "\r",
        "#",
        "b'\\x",
        "'\\N{",
        ":",
        ";",
        "f'{x:{x:{",
        "f'{{",
        "[[x for x in 'ab']for x in 'ab']",
        "getattr(",
        "x+=x;",
        "[1,2,3][",
        "r'\\",
        "lambda *",
        "[*",
        "'a'[::-1]",
        "x=('a','b','c');",
        "map(chr,[1,2,3]),",
        "(1 for a in 'abcdefgh' for b in 'ab'),",
        "0x",
        "1e+",
        "\u{0}",
        "\u{feff}",
    ];
    let run = move || {
        for bytes in [64 * 1024, 256 * 1024, 1024 * 1024] {
            for unit in repeated {
                let text = unit.repeat(bytes / unit.len());
                let script = crate::checks::Script {
                    language: crate::checks::Language::Python,
                    code: &text,
                    stdin: "",
                    env: &[],
                    cwd: "/",
                };
                let begun = Instant::now();
                let settings = crate::config::Config::default().checks;
                let _either = crate::checks::screen(&script, crate::spec::Level::Standard, &settings);
                let took = begun.elapsed();
                if took > Duration::from_millis(500) {
                    println!("{unit:?} {bytes} {took:?}");
                }
                // Unoptimised, beside other tests.
                assert!(took < Duration::from_secs(20), "{unit:?} took {took:?}");
            }
        }
    };
    std::thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(run).unwrap().join().unwrap();
}
