"""nginx and wrk: how they are started, and what wrk says at its end."""
import os
import re
import subprocess

PORT, TLS, BACK, MEMCACHED = 8080, 8443, 8081, 11311
CONNECTIONS = 16

CONF = """
daemon off;
user root;
worker_processes {workers};
pid {dir}/{name}.pid;
error_log {dir}/{name}.log warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 1000000000;
    keepalive_timeout 600;
    client_body_temp_path {dir}/{name}-body;
    proxy_temp_path {dir}/{name}-proxy;
    fastcgi_temp_path {dir}/{name}-fastcgi;
    uwsgi_temp_path {dir}/{name}-uwsgi;
    scgi_temp_path {dir}/{name}-scgi;
    {http}
}}
"""
FILES = """
    server {{
        listen {addr}:{port} reuseport;
        listen {addr}:{tls} ssl reuseport;
        ssl_certificate {dir}/cert.pem;
        ssl_certificate_key {dir}/key.pem;
        location / {{ root {dir}/www; }}
    }}"""
PROXY = """
    upstream back {{ server {back}; keepalive 32; }}
    server {{
        listen {addr}:{port} reuseport;
        location / {{ proxy_pass http://back; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}"""
CACHE = """
    upstream back {{ server {back}; keepalive 32; }}
    map $uri $memcached_key {{ default $uri; }}
    server {{
        listen {addr}:{port} reuseport;
        location / {{ memcached_pass back; }}
    }}"""

# wrk's own checks do not look into the body.
CHECK = """
local wanted = io.open("{file}", "rb"):read("*a")
local threads = {{}}
function setup(thread) table.insert(threads, thread); thread:set("bad", 0); thread:set("good", 0) end
function response(status, headers, body)
    if status == 200 and body == wanted then good = good + 1 else bad = bad + 1 end
end
function done()
    local g, b = 0, 0
    for _, t in ipairs(threads) do g = g + t:get("good"); b = b + t:get("bad") end
    io.write(string.format("verified %d, wrong %d\\n", g, b))
end
"""


def contents(case):
    """What is served: a small and a large file, and a certificate."""
    www = os.path.join(case.dir, "www")
    if os.path.isdir(www):
        return
    os.mkdir(www)
    for name, size in (("small", 1000), ("large", 1 << 20)):
        with open(os.path.join(www, name), "wb") as f:
            block = b"".join(b"%7d\n" % i for i in range((size + 7) // 8))
            f.write(block[:size])
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30",
                    "-subj", "/CN=localhost", "-keyout", f"{case.dir}/key.pem",
                    "-out", f"{case.dir}/cert.pem"], check=True, capture_output=True)


def nginx_argv(case, kind, name, http, workers=2, addr="127.0.0.1", **values):
    contents(case)
    values = {"port": PORT, "tls": TLS, "back": f"127.0.0.1:{BACK}", **values}
    conf = os.path.join(case.dir, name + ".conf")
    with open(conf, "w") as f:
        f.write(CONF.format(dir=case.dir, name=name, workers=workers,
                            http=http.format(dir=case.dir, addr=addr, **values)))
    return [case.config.programs.nginx.bin(kind, "nginx"), "-p", case.dir, "-c", conf, "-e",
            f"{case.dir}/{name}.log"]


def wrk_argv(case, kind, url, seconds, verify=None, connections=CONNECTIONS):
    """verify: the file that each answer must be equal to."""
    argv = [case.config.programs.wrk.bin(kind, "wrk"), "-t", "2", "-c", connections, "-d", f"{seconds}s",
            "--timeout", "30s"]
    if verify:
        script = os.path.join(case.dir, os.path.basename(verify) + ".lua")
        with open(script, "w") as f:
            f.write(CHECK.format(file=verify))
        argv += ["-s", script]
    return [*argv, url]


def check_wrk(case, p, seconds, verify=False):
    """Requests a second, and bytes a second as wrk prints them; any error fails."""
    p.succeed(seconds + 40)
    out = p.out()
    bad = re.search(r"^.*(Socket errors|Non-2xx).*$", out, re.M)
    case.check(not bad, f"wrk: {bad[0].strip() if bad else ''}")
    rate = re.search(r"Requests/sec:\s*([\d.]+)", out)
    case.check(rate and float(rate[1]) > 0, f"wrk printed no result: {out[-500:]}")
    if verify:
        m = re.search(r"verified (\d+), wrong (\d+)", out)
        case.check(m and int(m[1]) > 0 and m[2] == "0", f"wrk: {m[0] if m else 'nothing verified'}")
    return float(rate[1]), re.search(r"Transfer/sec:\s*(\S+)", out)[1]
