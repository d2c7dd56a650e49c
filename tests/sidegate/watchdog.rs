//! systemd's watchdog, which is to restart a gate whose worker hangs.

use std::os::unix::net::UnixDatagram;

use crate::support::{Gate, Preloaded, Stage, until, whole};

/// The first worker waits for nothing any more, from the moment on that a file is there; another file says that it does.
const HANGS: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>
int epoll_wait(int epoll, struct epoll_event *events, int most, int timeout) {
    static int (*real)(int, struct epoll_event *, int, int);
    if (!real) real = (int (*)(int, struct epoll_event *, int, int))dlsym(RTLD_NEXT, "epoll_wait");
    char name[16];
    const char *from = getenv("HANG_FROM"), *hangs = getenv("HANGS");
    if (from && hangs && access(from, F_OK) == 0 && prctl(PR_GET_NAME, name) == 0 && !strcmp(name, "worker-0")) {
        close(creat(hangs, 0600));
        for (;;) pause();
    }
    return real(epoll, events, most, timeout);
}
"#;

#[test]
fn the_watchdog_is_not_fed_while_a_worker_hangs() {
    let (stage, shim) = (Stage::set(), Preloaded::build(HANGS));
    let file = |name: &str, file: &str| (name.to_owned(), shim.file(file).display().to_string());
    let socket = UnixDatagram::bind(shim.file("notify")).expect("a socket can be made in the folder");
    socket.set_nonblocking(true).expect("a socket can be asked without waiting");
    let mut environment = stage.environment();
    environment.extend([shim.variable(), file("HANG_FROM", "hang"), file("HANGS", "hangs")]);
    environment.extend([file("NOTIFY_SOCKET", "notify"), ("WATCHDOG_USEC".to_owned(), "400000".to_owned())]);
    let gate = Gate::start(&whole("workers: 2\nroutes: {/public: public}"), environment).ready();
    // How often it was fed since it was asked last. Asked always, since a full socket would hold up who feeds it.
    let fed = || {
        let mut buffer = [0; 4096];
        let datagrams = std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec()));
        datagrams.filter(|datagram| datagram.starts_with(b"WATCHDOG=1")).count()
    };
    let mut feedings = 0;
    until("the watchdog to be fed again and again", || {
        feedings += fed();
        (feedings > 3).then_some(())
    });
    std::fs::write(shim.file("hang"), "").expect("the folder is writable");
    until("a worker to hang", || {
        fed();
        shim.file("hangs").exists().then_some(())
    });
    let warnings = || gate.written().matches("the watchdog is not fed").count();
    let before = warnings();
    // What it answered last may still be fed upon; with the next warning that is over.
    until("the gate to notice", || {
        fed();
        (warnings() > before).then_some(())
    });
    fed();
    until("the gate to notice again", || (warnings() > before + 1).then_some(()));
    assert_eq!(fed(), 0, "systemd would not restart it");
}

#[test]
fn a_gate_whose_worker_hangs_is_not_alive() {
    let (stage, shim) = (Stage::set(), Preloaded::build(HANGS));
    let file = |name: &str, file: &str| (name.to_owned(), shim.file(file).display().to_string());
    let mut environment = stage.environment();
    environment.extend([shim.variable(), file("HANG_FROM", "hang"), file("HANGS", "hangs")]);
    // As long as systemd would wait, so that the test does not take the usual time.
    environment.push(("WATCHDOG_USEC".to_owned(), "2000000".to_owned()));
    let gate = Gate::start(&whole("workers: 2\nroutes: {/public: public}"), environment).ready();
    until("it to be alive", || (gate.operators("/livez").status == 200).then_some(()));
    std::fs::write(shim.file("hang"), "").expect("the folder is writable");
    until("a worker to hang", || shim.file("hangs").exists().then_some(()));
    until("the kubelet to be told", || (gate.operators("/livez").status == 503).then_some(()));
    assert_eq!(gate.operators("/livez").text(), "a worker does not respond\n");
    until("the metric to tell", || (gate.metric("sidegate_worker_lag_seconds", &[]) > 2.0).then_some(()));
}
