"""What is run, the same for every subject, and what must come back."""
import json

OUTPUT_BYTES = 1024 * 1024
FILES = 50

# Only what bash itself has: the work is the file system's, not that of starting programs.
FILES_SCRIPT = ("cd %s || exit; for i in {1..50}; do echo file $i > f$i; done; n=0; "
                "for i in {1..50}; do read -r a b < f$i; n=$((n+b)); done; echo $n")


class Workload:
    def __init__(self, name, title, argv, stdout, tool, parameters, result):
        self.name, self.title, self.argv, self.stdout = name, title, argv, stdout
        self.tool, self.parameters, self.result = tool, parameters, result

    def at(self, directory):
        """The same with its files in `directory`."""
        def put(text):
            return text.replace("/workspace", directory)
        parameters = {name: put(value) for name, value in self.parameters.items()}
        return Workload(self.name, self.title, [put(a) for a in self.argv], self.stdout, self.tool, parameters,
                        self.result)


def bash(name, title, script, stdout):
    return Workload(name, title, ["/usr/bin/bash", "-c", script], stdout or None, "bash", {"command": script},
                    {"stdout": stdout, "stderr": "", "exit_code": 0, "success": True})


def python(name, title, code, output=""):
    return Workload(name, title, ["/usr/bin/python3", "-c", code], output or None, "python", {"code": code},
                    {"output": output, "variables": {}, "success": True})


TRUE = bash("true", "bash true", "true", "")
PYTHON = python("python", "python 1+1", "1+1")
OUTPUT = bash("output", "1 MiB output", "printf '%%%ds' ''" % OUTPUT_BYTES, " " * OUTPUT_BYTES)
WORKSPACE = bash("files", "50-file workspace", FILES_SCRIPT % "/workspace", "%d\n" % sum(range(FILES + 1)))
ALL = [TRUE, PYTHON, OUTPUT, WORKSPACE]

# Calls of a soak. @N@ becomes twelve digits of the call's own, so that an answer of another call is a wrong one.
SOAK = [
    (bash("small", "bash, small", "echo n@N@", "n@N@\n"), 8),
    (python("python", "python", "print('p@N@')", "p@N@\n"), 3),
    (bash("large", "bash, 1 MiB", "printf '%%%ds' @N@" % OUTPUT_BYTES,
          " " * (OUTPUT_BYTES - 12) + "@N@"), 1),
    (bash("files", "bash, 50 files", FILES_SCRIPT % "/workspace" + "; echo @N@",
          "%d\n@N@\n" % sum(range(FILES + 1))), 2),
]


def compact(value):
    """JSON as the service writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
