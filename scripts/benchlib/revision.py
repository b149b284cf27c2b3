"""Another revision of Sandkeep, built in a work tree and a target directory of its own."""
import os
import shutil
import subprocess
import tempfile

PROGRAMS = ("sandkeep", "sandkeepd", "sandkeep-engine")


def name(root, revision):
    """The commit that `revision` means."""
    asked = subprocess.run(["git", "rev-parse", "--verify", revision + "^{commit}"], cwd=root, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, text=True)
    if asked.returncode:
        raise SystemExit("no such revision: " + revision)
    return asked.stdout.strip()


def described(root):
    """What is built here: the commit, and whether files differ from it."""
    asked = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=10"], cwd=root, stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL, text=True)
    return asked.stdout.strip() or "unknown"


def build(root):
    subprocess.run(["cargo", "build", "--release", "--locked", "--bins", "--quiet"], cwd=root, check=True)
    return os.path.join(root, "target", "release")


class Built:
    """The programs of `revision`. With a cache directory they stay there, by commit, for the next run."""

    def __init__(self, root, revision, cache=None):
        self.commit, self.kept = name(root, revision), cache is not None
        self.directory = os.path.abspath(cache) if cache else tempfile.mkdtemp(prefix="sandkeep-bench-build-")
        self.binaries = os.path.join(self.directory, self.commit)
        if all(os.path.exists(os.path.join(self.binaries, p)) for p in PROGRAMS):
            return
        os.makedirs(self.binaries, exist_ok=True)
        tree = tempfile.mkdtemp(prefix="sandkeep-bench-tree-")
        print("building %s (%s) in %s" % (revision, self.commit[:10], self.directory), flush=True)
        try:
            subprocess.run(["git", "worktree", "add", "--detach", "--quiet", tree, self.commit], cwd=root, check=True)
            target = os.path.join(self.directory, "target")
            subprocess.run(["cargo", "build", "--release", "--locked", "--bins", "--quiet", "--target-dir", target],
                           cwd=tree, check=True)
            for program in PROGRAMS:
                shutil.copy2(os.path.join(target, "release", program), self.binaries)
        except BaseException:
            self.remove()
            raise
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=root, check=False)

    def remove(self):
        if not self.kept:
            shutil.rmtree(self.directory, ignore_errors=True)
