//! The other half of "one reading": real backends behind the gate, each with its own habits, and every way that is known to
//! write a guarded path. Without the scope none of them ever serves what is guarded.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
};

use serde_json::json;
use tempfile::TempDir;

use crate::support::{
    Gate, Port, Stage,
    client::{exchange, raw},
    until,
};

/// Everything but `/admin` is public, so that each way round the guard leads to a backend.
const ROUTES: &str = "routes: {/admin: admin, /admin/**: admin, /public/**: public, \
     /opened/**: {public: true, paths: [encoded-slash, semicolon]}, /opened/admin: admin, /**: public}";
/// Nothing but what is guarded is enforced, and all else passes without being any route's.
const OBSERVED: &str = "mode: observe\nroutes: {/admin: {scopes: admin, mode: enforce}, /admin/**: {scopes: admin, mode: enforce}, \
     /opened/**: {public: true, paths: [encoded-slash, semicolon]}, /opened/admin: {scopes: admin, mode: enforce}}";
const GUARDED: &str = "guarded content";

#[tokio::test]
async fn nginx_never_serves_what_is_guarded() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let port = Port::reserve();
    let address = port.address();
    files(&folder);
    let root = folder.path().display();
    let server = format!(
        "merge_slashes on; root {root}/www; location / {{ try_files $uri $uri/index.html =404; }}\n\
         location ~* ^/admin {{ try_files /admin/index.html =404; }}"
    );
    let _nginx = nginx(&folder, address, &server);
    is_never_reached(address);
}

/// By default (`gzip_proxied off`) it compresses nothing for a request with `Via`.
#[tokio::test]
async fn nginx_compresses_as_before_where_it_is_told_of_no_proxy_or_to_compress_for_proxies_too() {
    let stage = Stage::set();
    for (gzip_proxied, via, compressed) in
        [("off", "", false), ("off", ", via: true", false), ("off", ", via: false", true), ("any", "", true)]
    {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let port = Port::reserve();
        let address = port.address();
        fs::write(folder.path().join("text.html"), "words ".repeat(1000)).expect("the folder is writable");
        let root = folder.path().display();
        let _nginx = nginx(&folder, address, &format!("root {root}; gzip on; gzip_proxied {gzip_proxied};"));
        let gate = stage.gate(&format!("upstream: {{url: 'http://{address}'{via}}}\nroutes: {{/text.html: public}}"));
        let coding = |address, lines: &[&[u8]]| {
            let answer = raw(address, "GET", "/text.html", &[&[&b"Accept-Encoding: gzip"[..]], lines].concat());
            assert_eq!(answer.status, 200);
            answer.header("content-encoding").map(str::to_owned)
        };
        assert_eq!(coding(address, &[]).as_deref(), Some("gzip"), "without a gate");
        let through = coding(gate.address, &[]);
        assert_eq!(through.as_deref(), compressed.then_some("gzip"), "gzip_proxied {gzip_proxied}{via}");
        // Also behind another proxy.
        assert_eq!(coding(gate.address, &[b"Via: 1.1 front"]), through, "gzip_proxied {gzip_proxied}{via}");
    }
}

#[tokio::test]
async fn pythons_file_server_never_serves_what_is_guarded() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let port = Port::reserve();
    let address = port.address();
    files(&folder);
    let mut python = Command::new("python3");
    python.args(["-m", "http.server", &address.port().to_string(), "--bind", "127.0.0.1", "--directory"]);
    let _python = Backend::start(python.arg(folder.path().join("www")), address, "install python3");
    is_never_reached(address);
}

/// The router decodes and compares without case and without a trailing slash, as Express does, and drops parameters and
/// trailing dots and resolves dots, as some servers in front of one do.
#[tokio::test]
async fn a_lenient_node_server_never_serves_what_is_guarded() {
    let script = format!(
        r#"
        const path = require('node:path');
        const decode = (text) => {{ try {{ return decodeURIComponent(text); }} catch {{ return text; }} }};
        const readings = (target) => {{
            const found = [];
            for (const times of [0, 1, 2]) {{
                let text = target.split('?')[0];
                for (let i = 0; i < times; i++) text = decode(text);
                for (const cut of [(t) => t, (t) => t.split(/[?#\0]/)[0]]) {{
                    const plain = cut(text).normalize('NFKC').replace(/\\/g, '/').replace(/;[^\/]*/g, '').toLowerCase();
                    const trimmed = plain.split('/').map((s) => (/^\.+$/.test(s.trim()) ? s.trim() : s.trim().replace(/[. ]+$/, '')));
                    found.push(path.posix.normalize(trimmed.join('/')).replace(/(.)\/$/, '$1'));
                }}
            }}
            return found;
        }};
        const server = require('node:http').createServer((request, response) => {{
            const guarded = readings(request.url).some((p) => p === '/admin' || p.startsWith('/admin/') || p === '/opened/admin');
            response.end(guarded ? '{GUARDED}' : 'public');
        }});
        server.listen(0, '127.0.0.1', () => console.log(server.address().port));
        "#
    );
    let mut node = Command::new("node");
    let mut node = Backend(node.args(["-e", &script]).stdout(Stdio::piped()).spawn().expect("install node"));
    let mut line = String::new();
    let output = node.0.stdout.take().expect("stdout is piped");
    BufReader::new(output).read_line(&mut line).expect("node says its port");
    is_never_reached(SocketAddr::from(([127, 0, 0, 1], line.trim().parse().expect("a port"))));
}

/// A running nginx with this as its only server.
fn nginx(folder: &TempDir, address: SocketAddr, server: &str) -> Backend {
    let root = folder.path().display();
    let conf = format!(
        "daemon off; master_process off; pid {root}/nginx.pid; error_log stderr crit; events {{}}\n\
         http {{ access_log off; client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;\n\
         uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5; types {{ text/html html; }}\n\
         server {{ listen {address}; {server} }} }}"
    );
    let file = folder.path().join("nginx.conf");
    fs::write(&file, conf).expect("the folder is writable");
    let mut nginx = Command::new("nginx");
    nginx.arg("-p").arg(folder.path()).arg("-c").arg(&file);
    Backend::start(&mut nginx, address, "install nginx")
}

fn is_never_reached(backend: SocketAddr) {
    for routes in [ROUTES, OBSERVED] {
        is_never_reached_by(backend, routes);
    }
}

fn is_never_reached_by(backend: SocketAddr, routes: &str) {
    let stage = Stage::set();
    let gate = stage.gate(&format!("upstream: http://{backend}\n{routes}"));
    let key =
        |scope: &str| format!("X-API-Key: {}", stage.redis.mint(json!({"business": "acme", "scopes": [scope]})).text);
    let (reader, admin) = (key("other"), key("admin"));
    let body = |target: &str, key: &str, gate: &Gate| gate.raw("GET", target, &[key.as_bytes()]).text();
    // The guarded thing is there, and so is what is public.
    let served = ["/admin/index.html", "/admin"].map(|path| body(path, &admin, &gate));
    assert!(served.iter().any(|text| text.contains(GUARDED)), "{served:?}");
    assert!(body("/public/index.html", &reader, &gate).contains("public"));
    let mut open_ways = 0;
    for target in mutations() {
        let alone = exchange(backend, format!("GET {target} HTTP/1.0\r\nHost: a\r\n\r\n").as_bytes());
        open_ways += usize::from(String::from_utf8_lossy(&alone).contains(GUARDED));
        let text = body(&target, &reader, &gate);
        assert!(!text.contains(GUARDED), "{target} shows what is guarded");
    }
    assert!(open_ways >= 20, "without the gate, only {open_ways} ways lead to what is guarded: the test is blunt");
}

/// Ways in, times names, times ends.
fn mutations() -> Vec<String> {
    const BEFORE: [&str; 30] = [
        "/",
        "//",
        "/./",
        "/%2e/",
        "/public/../",
        "/public/%2e%2e/",
        "/public/.%2E/",
        "/public//..//",
        "/public%2f..%2f",
        "/public%2f%2e%2e/",
        "/public%5c..%5c",
        "/public\\..\\",
        "/public/..;/",
        "/public/..;a=b/",
        "/public;/../",
        "/public/%252e%252e/",
        "/public/%25%32%65%25%32%65/",
        "/public/..%20/",
        "/public/..%00/",
        "/public/..%c0%af",
        "/public/%ef%bc%8e%ef%bc%8e/",
        "/public/..%ef%bc%8f",
        "/opened/..%2f",
        "/opened/%2e%2e%2f",
        "/opened/..;/",
        "/opened/x;/",
        "/opened/",
        "/opened/%2f",
        "/opened/a%2f..%2f..%2f",
        "/x/..%3f/../",
    ];
    const NAMES: [&str; 8] = [
        "admin",
        "ADMIN",
        "%61dmin",
        "%41dmin",
        "adm%C4%B1n",
        "%EF%BD%81dmin",
        "admin%2Findex.html",
        "Admin/index.html",
    ];
    const ENDS: [&str; 12] = ["", "/", ".", "%20", ";", ";x", "%3Fx", "%23x", "%00", "/.", "?x", "#x"];
    let all = BEFORE.iter().flat_map(|before| {
        NAMES.iter().flat_map(move |name| ENDS.iter().map(move |end| format!("{before}{name}{end}")))
    });
    all.collect()
}

fn files(folder: &TempDir) {
    for (name, text) in [("admin", GUARDED), ("public", "public"), ("opened", "public")] {
        let folder = folder.path().join("www").join(name);
        fs::create_dir_all(&folder).expect("the folder is writable");
        fs::write(folder.join("index.html"), text).expect("the folder is writable");
    }
}

struct Backend(Child);

impl Backend {
    fn start(command: &mut Command, address: SocketAddr, hint: &str) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let backend = Self(child.unwrap_or_else(|error| panic!("{error}; {hint}")));
        until("the backend to listen", || TcpStream::connect(address).ok());
        backend
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
