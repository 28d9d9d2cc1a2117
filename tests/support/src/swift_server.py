"""OpenStack Swift with its S3 interface: the proxy and the three servers behind it, in one process for a short start.

Arguments: a folder, the port of the proxy, and that of a proxy that asks for no keys and speaks Swift's own interface, for
what tests look at (0: any). The file `ports` in the folder says where they listen. The folder of an earlier one is used again.
"""
import os
import sys

from swift.common.utils import eventlet_monkey_patch

eventlet_monkey_patch()

import eventlet
import eventlet.wsgi
from swift.common.ring import RingBuilder
from swift.common.wsgi import SwiftHttpProtocol, loadapp

folder, port, open_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.makedirs(f"{folder}/devices/disk", exist_ok=True)
with open(f"{folder}/swift.conf", "w") as file:
    file.write("[swift-hash]\nswift_hash_path_suffix = a\nswift_hash_path_prefix = b\n[storage-policy:0]\nname = one\ndefault = yes\n")

COMMON = f"[DEFAULT]\nswift_dir = {folder}\nlog_address = /nonexistent\nlog_level = WARNING\n"
BACKEND = """devices = {folder}/devices
mount_check = false
disable_fallocate = true
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
"""
PROXY = """[pipeline:main]
pipeline = catch_errors cache listing_formats {keys} slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = secret-of-the-tester .admin
[filter:slo]
use = egg:swift#slo
"""

sockets = {}
for name in ("account", "container", "object"):
    sockets[name] = eventlet.listen(("127.0.0.1", 0))
    builder = RingBuilder(1, 1, 0)
    device = {"region": 1, "zone": 1, "ip": "127.0.0.1", "port": sockets[name].getsockname()[1], "device": "disk", "weight": 1.0}
    builder.add_dev(device)
    builder.rebalance()
    builder.get_ring().save(f"{folder}/{name}.ring.gz")
sockets["proxy"] = eventlet.listen(("127.0.0.1", port))
sockets["open"] = eventlet.listen(("127.0.0.1", open_port))
settings = {name: BACKEND.format(folder=folder, name=name) for name in ("account", "container", "object")}
settings["proxy"] = PROXY.format(keys="s3api tempauth")
settings["open"] = PROXY.format(keys="")

threads = []
for name, socket in sockets.items():
    path = f"{folder}/{name}.conf"
    with open(path, "w") as file:
        file.write(COMMON + settings[name])
    app = loadapp(path, global_conf={"log_name": name})
    threads.append(eventlet.spawn(eventlet.wsgi.server, socket, app, log_output=False, protocol=SwiftHttpProtocol))
with open(f"{folder}/ports.new", "w") as file:
    file.write(" ".join(str(sockets[name].getsockname()[1]) for name in ("proxy", "open")))
os.rename(f"{folder}/ports.new", f"{folder}/ports")
for thread in threads:
    thread.wait()
