# Waits for a line at descriptor 3, runs the caller's code (descriptor 4 behind its first line, which says what is refused) as
# a fresh __main__ and writes one JSON document to descriptor 5:
# {"variables": {...}, "truncated": bool, "error": null | {"name", "value", "traceback"}}.
# Every name here lives in one function, so that the code finds nothing of it in its own module. Few imports: each one
# is start-up time. `re`, and so json, traceback and linecache, are loaded only where they are needed.
def run():
    import os, sys
    from _json import encode_basestring as quote

    FILE = "code.py"
    DEPTH, NAMES, VALUE, TOTAL, REPR, TRACE = 16, 1000, 64 * 1024, 256 * 1024, 1000, 64 * 1024
    INT = 2 ** 53

    # Nothing of any caller is known before this line; what comes before it may have been done long ago.
    if not os.read(3, 1):
        # The gate was closed and not opened: there is no code to run, or not all of it.
        os._exit(70)
    os.close(3)
    with open(4, encoding="utf-8", newline="") as f:
        # Of modules, builtins and attributes: the rule's name and the names, or nothing where all are allowed.
        rules = [field.split(" ") if field else None for field in f.readline()[:-1].split("\t")]
        modules, builtins, attributes = (rules + [None] * 3)[:3]
        source = f.read()
    os.set_inheritable(5, False)
    main_pid = os.getpid()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            # What was printed before a kill must have left the process.
            stream.reconfigure(line_buffering=True, errors="backslashreplace")

    class Loader:
        # linecache and inspect ask a module's loader for lines that are in no file.
        def get_source(self, name):
            return source

    Module = type(sys)

    def restricted():
        # The builtins that only the caller's code has. Modules have their own: what they import is their business.
        real = __builtins__.__dict__ if isinstance(__builtins__, Module) else __builtins__
        found = dict(real)
        if builtins:
            for name in builtins[1:]:
                if name not in ("__import__", "__build_class__"):
                    found.pop(name, None)
        load, get, change, remove = real["__import__"], getattr, setattr, delattr
        allowed = set(modules[1:]) if modules else None

        def foreign(v):
            # getattr: the class of a module may have been changed, and its name removed.
            return allowed is not None and isinstance(v, Module) and str(get(v, "__name__", "")).partition(".")[0] not in allowed

        def refused(name):
            return ImportError(f"{name} is not among the modules that may be imported ({modules[0]})", name=name)

        def importing(name, globals=None, locals=None, fromlist=(), level=0):
            # C code imports through the builtins of whoever called it (time.strptime does), always with an empty list.
            if type(fromlist) is list and not fromlist:
                return load(name, globals, locals, fromlist, level)
            if allowed is not None and (level or str(name).partition(".")[0] not in allowed):
                raise refused(name)
            module = load(name, globals, locals, fromlist, level)
            if allowed is None or not fromlist:
                return module
            if "*" in fromlist and not hasattr(module, "__all__"):
                # Without the modules that it has imported for itself.
                copy = Module(module.__name__)
                copy.__dict__.update((k, v) for k, v in module.__dict__.items() if k[:1] != "_" and not foreign(v))
                return copy
            for one in fromlist:
                if one != "*" and foreign(get(module, one, None)):
                    raise refused(f"{name}.{one}")
            return module

        def check(name):
            if attributes and name in attributes[1:]:
                raise AttributeError(f"{name!r} may not be used ({attributes[0]})")

        def getting(*arguments):
            if len(arguments) > 1:
                check(arguments[1])
            v = get(*arguments)
            if len(arguments) > 1 and foreign(v) and isinstance(arguments[0], Module):
                raise AttributeError(f"{arguments[1]!r} is not among the modules that may be reached ({modules[0]})")
            return v

        def setting(*arguments):
            if len(arguments) > 1:
                check(arguments[1])
            change(*arguments)

        def deleting(*arguments):
            if len(arguments) > 1:
                check(arguments[1])
            remove(*arguments)

        for name, function in (("__import__", importing), ("getattr", getting), ("setattr", setting), ("delattr", deleting)):
            function.__name__ = function.__qualname__ = name
            found[name] = function
            own.append(function.__code__)
        own.append(check.__code__)
        return found

    main = Module("__main__")
    main.__loader__ = Loader()
    sys.modules["__main__"] = main
    sys.argv[:] = [""]
    sys.path.insert(0, "")

    class Full(Exception):
        pass

    def hidden(code):
        # Names that the code reads or writes as attributes: as the compiler has them, whatever any reader made of the source.
        blocked, todo = set(attributes[1:]), [code]
        while todo:
            one = todo.pop()
            if not blocked.isdisjoint(one.co_names):
                # Seldom: a method may be named so.
                import dis
                for step in dis.get_instructions(one):
                    is_attribute = "ATTR" in step.opname or "METHOD" in step.opname or step.opname == "IMPORT_FROM"
                    if is_attribute and step.argval in blocked:
                        raise AttributeError(f"{step.argval!r} may not be used ({attributes[0]})")
            todo += [c for c in one.co_consts if type(c) is type(code)]

    own = [hidden.__code__]
    main.__builtins__ = restricted() if modules or builtins or attributes else __builtins__

    def text(s):
        # A lone surrogate has no JSON form.
        try:
            s.encode()
        except UnicodeEncodeError:
            s = s.encode("utf-8", "backslashreplace").decode()
        return quote(s)

    def brief(v):
        import reprlib
        r = reprlib.Repr()
        r.maxlevel, r.maxstring, r.maxother, r.maxlong = 4, REPR, REPR, REPR
        r.maxlist = r.maxtuple = r.maxdict = r.maxset = r.maxfrozenset = r.maxdeque = r.maxarray = 30
        try:
            s = r.repr(v)
        except BaseException:
            s = "<unrepresentable>"
        return s if len(s) <= REPR else s[:REPR] + "…"

    def other(v):
        t = type(v)
        try:
            name = t.__qualname__ if t.__module__ == "builtins" else t.__module__ + "." + t.__qualname__
        except BaseException:
            name = "object"
        return '{"type":' + text(str(name)[:200]) + ',"repr":' + text(brief(v)) + "}"

    cut = False

    def value(v, out, depth, above, room):
        # Appends pieces of JSON to out; room is a one-element list of bytes left for this value.
        nonlocal cut

        def put(s):
            room[0] -= len(s) if s.isascii() else len(s.encode())
            if room[0] < 0:
                raise Full
            out.append(s)

        if v is None:
            put("null")
        elif v is True:
            put("true")
        elif v is False:
            put("false")
        elif isinstance(v, str):
            if len(v) > VALUE:
                raise Full
            put(text(v))
        elif isinstance(v, int) and -INT <= v <= INT:
            put(int.__repr__(v))
        elif isinstance(v, float) and v - v == 0:
            put(float.__repr__(v))
        elif isinstance(v, (list, tuple, dict)) and id(v) not in above:
            if depth == DEPTH:
                cut = True
                put(other(v))
                return
            above = above | {id(v)}
            if isinstance(v, dict):
                items = list(dict.items(v)) if dict.__len__(v) <= VALUE else None
                if items is None:
                    raise Full
                if not all(isinstance(k, str) for k, _ in items):
                    put(other(v))
                    return
                separator = "{"
                for k, item in items:
                    put(separator + text(k) + ":")
                    value(item, out, depth + 1, above, room)
                    separator = ","
                put("}" if items else "{}")
            else:
                separator = "["
                for item in (list if isinstance(v, list) else tuple).__iter__(v):
                    put(separator)
                    value(item, out, depth + 1, above, room)
                    separator = ","
                put("]" if separator == "," else "[]")
        else:
            put(other(v))

    def variables():
        nonlocal cut
        function, builtin, method = type(run), type(len), type(main.__loader__.get_source)
        parts, total = [], 0
        for name, v in list(main.__dict__.items()):
            if not isinstance(name, str) or name[:1] == "_":
                continue
            if isinstance(v, (Module, type, function, builtin, method)):
                continue
            out = []
            try:
                value(v, out, 1, frozenset(), [VALUE])
                one = "".join(out)
            except Full:
                cut = True
                one = other(v)
            except BaseException:
                one = '{"type":"object","repr":"<unrepresentable>"}'
            one = text(name) + ":" + one
            total += len(one.encode()) + 1
            if len(parts) == NAMES or total > TOTAL:
                cut = True
                break
            parts.append(one)
        return "{" + ",".join(parts) + "}"

    def trouble(e):
        import linecache, traceback
        linecache.cache[FILE] = (len(source), None, [line + "\n" for line in source.split("\n")], FILE)
        tb = e.__traceback__
        # The first frame is the driver's own, and so are those of what stands in for a builtin.
        tb = tb.tb_next if tb else None
        while tb is not None and tb.tb_frame.f_code in own:
            tb = tb.tb_next
        e = e.with_traceback(tb)
        while tb is not None:
            while tb.tb_next is not None and tb.tb_next.tb_frame.f_code in own:
                tb.tb_next = tb.tb_next.tb_next
            tb = tb.tb_next
        try:
            trace = "".join(traceback.format_exception(type(e), e, e.__traceback__))
        except BaseException:
            trace = type(e).__name__ + "\n"
        try:
            shown = str(e.code) if isinstance(e, SystemExit) else str(e)
        except BaseException:
            shown = "<unrepresentable>"
        if len(trace) > TRACE:
            trace = trace[: TRACE // 2] + "\n…\n" + trace[-TRACE // 2 :]
        return trace, (
            '{"name":' + text(type(e).__name__[:200]) + ',"value":' + text(shown[:REPR * 4])
            + ',"traceback":' + text(trace) + "}"
        )

    status, error, trace = 0, "null", None
    try:
        code = compile(source, FILE, "exec", dont_inherit=True)
        if attributes:
            hidden(code)
        exec(code, main.__dict__)
    except SystemExit as e:
        trace, error = trouble(e)
        if e.code is None:
            status = 0
        elif isinstance(e.code, int):
            status = e.code & 0xFF
        else:
            status = 1
            trace = str(e.code) + "\n"
        if status == 0 or isinstance(e.code, int):
            trace = None
    except BaseException as e:
        status = 130 if isinstance(e, KeyboardInterrupt) else 1
        trace, error = trouble(e)

    def flush():
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BaseException:
                pass

    flush()
    if trace:
        try:
            sys.stderr.write(trace)
        except BaseException:
            pass
    # A child that the code forked and let fall through has nothing to tell.
    if os.getpid() == main_pid:
        try:
            found = variables()
        except BaseException:
            found, cut = "{}", True
        document = '{"variables":' + found + ',"truncated":' + ("true" if cut else "false") + ',"error":' + error + "}"
        data = memoryview(document.encode("utf-8", "backslashreplace"))
        try:
            while data:
                data = data[os.write(5, data):]
            os.close(5)
        except OSError:
            pass
    # Threads that are no daemons and atexit handlers run now, as after any script.
    sys.exit(status)


run()
