"""The tables, in Markdown: medians of every figure, and the paired ratios beside those to reach."""

HEAD = "| contender | req/s | p50/p99 µs | proxy CPU µs | Redis CPU µs | calls/req | memory MB |\n|---|---|---|---|---|---|---|"


def number(value, digits=1):
    return "–" if value is None else f"{value:,.{digits}f}"


def tables(field, plan, results):
    """One table a shape."""
    for name, shape in plan.items():
        crowd = field.tls if shape.tls else field.by_workers[shape.workers]
        print(f"\n### {shape.title}\n\n{HEAD}")
        for key in shape.contenders:
            if key not in crowd:
                continue
            def of(figure):
                return results.median(name, key, figure)
            failed = sum(results.values(name, key, "failed"))
            contender = crowd[key].name + (f" (**{failed} failed**)" if failed else "")
            own = key != "direct"
            print(
                f"| {contender} | {number(of('req_s'), 0)} | {number(of('p50'), 0)}/{number(of('p99'), 0)} "
                f"| {number(of('proxy_us') if own else None)} | {number(of('redis_us'))} | {number(of('calls'), 2)} "
                f"| {number(of('rss') / 1024)} |"
            )


def memory(field, idle, handshake):
    print("\n### Memory and TLS handshakes\n")
    print("| contender | idle process MB (1 worker / 2 workers) | KiB an idle connection, plain | TLS | handshake CPU µs |")
    print("|---|---|---|---|---|")
    for key, name in [("nginx", None), ("lua", None), ("haproxy", None), ("gate", None)]:
        contender = field.by_workers[1][key]
        process = " / ".join(number(field.idle_kib[key, workers] / 1024) for workers in (1, 2))
        plain, tls = idle.get((key, False)), idle.get((key, True))
        hand = handshake.get(key)
        print(f"| {contender.name} | {process} | {number(plain)} | {number(tls)} | {number(hand, 0)} |")


def ratio(mine, theirs):
    return mine / theirs


def difference(mine, theirs):
    return mine - theirs


class Goals:
    """PERFORMANCE's last table: figure, must, goal, and what was measured, each with its verdict."""

    def __init__(self, results):
        self.results, self.lines = results, []

    def add(self, figure, must, goal, value, digits=2, least=False):
        if value is None:
            return
        meets = (lambda bound: value >= bound) if least else (lambda bound: value <= bound)
        verdict = "goal met" if meets(goal) else "must met" if meets(must) else "**not met**"
        sign = "≥" if least else "≤"
        self.lines.append(f"| {figure} | {sign} {must:g} | {sign} {goal:g} | {value:,.{digits}f} | {verdict} |")

    def paired(self, figure, must, goal, shape, base, of, key="gate", combine=ratio, **options):
        self.add(figure, must, goal, self.results.paired(shape, key, base, of, combine), **options)

    def median(self, figure, must, goal, shape, of, **options):
        self.add(figure, must, goal, self.results.median(shape, "gate", of), **options)

    def print(self):
        print("\n### Ratios, medians of paired rounds\n\n| figure | must | goal | measured | |\n|---|---|---|---|---|")
        print("\n".join(self.lines))


def goals(field, results, idle, handshake):
    table = Goals(results)
    paired, median = table.paired, table.median
    paired("req/s against nginx pass-through, hot, 1 worker, 32 conn", 0.75, 1.0, "hot", "nginx", "req_s", least=True)
    paired("req/s against nginx + Lua + Redis, hot, 1 worker, 32 conn", 1.7, 2.1, "hot", "lua", "req_s", least=True)
    paired("… 2 workers, 128 conn", 1.5, 1.9, "two", "lua", "req_s", least=True)
    paired("… 1,000 keys, 1 worker, 32 conn", 1.5, 1.9, "many", "lua", "req_s", least=True)
    paired("proxy CPU against nginx pass-through, hot, 1 worker", 1.4, 1.1, "hot", "nginx", "proxy_us")
    paired("… 2 workers", 1.6, 1.25, "two", "nginx", "proxy_us")
    median("Redis calls per request, hot, 32 conn", 0.2, 0.11, "hot", "calls", digits=3)
    median("… hot, 128 conn (2 workers)", 0.1, 0.05, "two", "calls", digits=3)
    median("… 1,000 keys, 32 conn", 0.25, 0.1, "many", "calls", digits=3)
    paired("Redis CPU per request against nginx + Lua, 1,000 keys", 0.7, 0.4, "many", "lua", "redis_us")
    for of, must, goal in [("p50", 60, 40), ("p99", 120, 70)]:
        added = {"combine": difference, "digits": 0}
        paired(f"added {of} over nginx pass-through, 1 conn, µs", must, goal, "one", "nginx", of, **added)
    for of in ("p50", "p99"):
        paired(f"{of} at a steady 4,000 req/s against nginx pass-through", 1.6, 1.3, "steady", "nginx", of)
    table.add("idle process, 1 worker, MB", 12, 6, field.idle_kib["gate", 1] / 1024, digits=1)
    table.add("an idle connection, plain, KiB", 14, 8, idle.get(("gate", False)), digits=1)
    table.add("an idle connection, TLS, KiB", 40, 24, idle.get(("gate", True)), digits=1)
    hands = ratio(handshake["gate"], handshake["nginx"]) if "gate" in handshake else None
    table.add("TLS full handshake (ECDSA), CPU against nginx TLS", 0.6, 0.5, hands)
    paired("TLS keep-alive, CPU against nginx TLS pass-through", 0.9, 0.75, "tls", "nginx", "proxy_us")
    paired("Redis CPU an ask, three windows instead of one", 1.8, 1.3, "three", "gate", "redis_us", key="triple")
    table.print()
