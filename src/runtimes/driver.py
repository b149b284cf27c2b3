# Waits for a line at descriptor 3, runs the caller's code (all of descriptor 4) as a fresh __main__ and writes one JSON
# document to descriptor 5:
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
    main = Module("__main__")
    main.__loader__ = Loader()
    main.__builtins__ = __builtins__
    sys.modules["__main__"] = main
    sys.argv[:] = [""]
    sys.path.insert(0, "")

    class Full(Exception):
        pass

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
        # The first frame is the driver's own.
        e = e.with_traceback(tb.tb_next if tb else None)
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
        exec(compile(source, FILE, "exec", dont_inherit=True), main.__dict__)
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
