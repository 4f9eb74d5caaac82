"""How each program is configured and made; what is built twice."""
import os

from build import Build, need

JOBS = f"-j{os.cpu_count()}"


def redis(how, top):
    need(["tclsh8.6"])
    b = Build(how, top, "redis")
    names = ["redis-server", "redis-benchmark", "redis-cli"]
    src = os.path.join(b.tree, "src")
    make = ["make", "MALLOC=libc", "USE_SYSTEMD=no", "USE_SYSTEM_JEMALLOC=no", "OPT=-O2", "V=1"]
    if not b.made("make"):
        b.sh(*make, JOBS, *names, cwd=src)
        b.mark("make")
    b.both(names, make, src)
    return b


def memcached(how, top):
    need(["perl"], [("event.h", "libevent-dev")])
    b = Build(how, top, "memcached")
    if not b.made("make"):
        b.sh("./configure", "--quiet")
        b.sh("make", JOBS, "memcached", "memcached-debug", "sizes", "testapp", "timedrun")
        b.mark("make")
    b.both(["memcached", "memcached-debug"], ["make", "V=1"])
    return b


def nginx(how, top):
    need(["openssl"], [("openssl/ssl.h", "libssl-dev"), ("zlib.h", "zlib1g-dev")])
    b = Build(how, top, "nginx")
    make = ["make", "-f", "objs/Makefile"]
    if not b.made("make"):
        b.sh("./configure", "--with-http_ssl_module", "--without-http_rewrite_module",
             "--with-threads", "--with-cc-opt=-O2")
        b.sh(*make, JOBS, "objs/nginx")
        b.mark("make")
    b.both(["objs/nginx"], make)
    return b


def wrk(how, top):
    need(["luajit", "pkg-config"], [("luajit.h", "libluajit-5.1-dev"), ("openssl/ssl.h", "libssl-dev")])
    b = Build(how, top, "wrk")
    make = ["make", "WITH_LUAJIT=/usr", "WITH_OPENSSL=/usr", "VER=debian"]
    if not b.made("make"):
        b.sh(*make, JOBS, "wrk")
        b.mark("make")
    b.both(["wrk"], make)
    return b


def libuv(how, top):
    need(["cmake"])
    b = Build(how, top, "libuv1")
    tree = os.path.join(b.tree, "out")
    if not b.made("make"):
        b.sh("cmake", "-S", ".", "-B", tree, "-DBUILD_TESTING=ON", "-DCMAKE_BUILD_TYPE=Release")
        b.sh("cmake", "--build", tree, JOBS, "--target", "uv_run_tests_a")
        b.mark("make")
    with open(os.path.join(tree, "CMakeFiles", "uv_run_tests_a.dir", "link.txt")) as f:
        b.both(["uv_run_tests_a"], f.read().strip(), tree)
    return b


def curl(how, top):
    need(["perl"], [("openssl/ssl.h", "libssl-dev"), ("zlib.h", "zlib1g-dev")])
    b = Build(how, top, "curl")
    if not b.made("make"):
        b.sh("./configure", "--quiet", "--disable-shared", "--with-openssl", "--disable-ldap",
             "--without-libpsl", "--disable-manual", "--without-brotli", "--without-zstd",
             "--without-nghttp2", "--without-librtmp", "--without-libidn2")
        b.sh("make", JOBS)
        b.sh("make", JOBS, "-C", "tests/server")
        b.mark("make")
    b.both(["curl"], ["make", "V=1"], os.path.join(b.tree, "src"))
    b.both(["sws", "sockfilt"], ["make", "V=1"], os.path.join(b.tree, "tests", "server"))
    return b


ALL = {f.__name__: f for f in (redis, memcached, nginx, wrk, libuv, curl)}
