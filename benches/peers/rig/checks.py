"""Whether every contender does its job: nothing is measured before that is shown."""

import http.client
import ssl

from .contenders import FEW


def fetch(contender, key=None, path=None, tls=False):
    if tls:
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", contender.port, timeout=5, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", contender.port, timeout=5)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    connection.request("GET", path or contender.path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict((name.lower(), value) for name, value in answer.getheaders()), len(body)


def verify(field):
    for contenders in field.by_workers.values():
        for contender in contenders.values():
            does_its_job(field, contender)
    for contender in field.tls.values():
        status, _, size = fetch(contender, field.hot, tls=True)
        expect(contender, "over TLS", (status, size), (200, 1024))


def does_its_job(field, contender):
    status, headers, size = fetch(contender, field.hot)
    expect(contender, "a good key", (status, size), (200, 1024))
    if not contender.full:
        return
    left = int(headers["x-ratelimit-remaining"])
    expect(contender, "the limit's header", int(headers["x-ratelimit-limit"]), 100_000_000)
    expect(contender, "it counts", left - int(fetch(contender, field.hot)[1]["x-ratelimit-remaining"]), 1)
    expect(contender, "no key", fetch(contender)[0], 401)
    expect(contender, "an unknown key", fetch(contender, field.unknown)[0], 401)
    expect(contender, "a missing scope", fetch(contender, field.hot, "/v1/admin")[0], 403)
    # A window may end between two of these, so one more than twice the limit must meet it.
    statuses = [fetch(contender, field.limited)[0] for _ in range(2 * FEW + 1)]
    expect(contender, "over the limit", set(statuses) | {200}, {200, 429})
    expect(contender, "over the limit", 429 in statuses, True)


def expect(contender, what, got, wanted):
    if got != wanted:
        raise SystemExit(f"{contender.name} ({contender.process.name}): {what}: {got} instead of {wanted}")
