//! A Redis Cluster of one test: primaries and replicas on this machine.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::bus::Bus;
use super::redis::{Options, RedisServer};

/// The longest time that a cluster takes to form, or to agree on a change.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The number of slots.
pub(crate) const SLOTS: usize = 16_384;

/// The settings of all nodes.
#[derive(Clone, Debug)]
pub(crate) struct ClusterOptions {
    primaries: usize,
    /// For each primary.
    replicas: usize,
    node: Options,
    user: String,
    has_tls: bool,
    /// Whether the nodes reach each other through proxies.
    has_proxies: bool,
}

/// A cluster. A drop kills its nodes.
#[derive(Debug)]
pub(crate) struct RedisCluster {
    /// The primaries, then the replicas. The `i`-th replica follows the `i`-th primary, modulo their number.
    pub(crate) nodes: Vec<RedisServer>,
    primaries: usize,
    user: String,
    has_tls: bool,
    bus: Option<Bus>,
    /// The announced ports of the buses, in the order of the nodes, if the nodes have proxies.
    bus_ports: Vec<u16>,
}

impl ClusterOptions {
    pub(crate) fn new(primaries: usize, replicas: usize) -> Self {
        // A node that is silent for a second is replaced. A dead node costs its own slots only.
        let node = RedisServer::options()
            .line("cluster-enabled yes")
            .line("cluster-config-file nodes.conf")
            .line("cluster-node-timeout 1000")
            .line("cluster-require-full-coverage no")
            .line("cluster-replica-validity-factor 0")
            .line("repl-diskless-sync-delay 0");
        Self {
            primaries,
            replicas,
            node,
            user: String::new(),
            has_tls: false,
            has_proxies: false,
        }
    }

    /// The nodes reach each other through proxies; see [`RedisCluster::isolate`].
    pub(crate) fn proxies(mut self) -> Self {
        self.has_proxies = true;
        self
    }

    /// Each node also has a port for TLS, which it announces to clients that use TLS.
    #[cfg(feature = "tls")]
    pub(crate) fn tls(mut self, certificate: &super::tls::Certificate) -> Self {
        self.has_tls = true;
        let lines = certificate.lines();
        let cluster = self.line("tls-cluster yes").line("tls-replication yes");
        lines
            .iter()
            .fold(cluster, |options, line| options.line(line))
    }

    /// A line of `redis.conf` for each node.
    pub(crate) fn line(mut self, line: &str) -> Self {
        self.node = self.node.line(line);
        self
    }

    /// The user and its password in the URL, such as `limiter:secret@`.
    pub(crate) fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// Starts the nodes and waits until all slots are served and all replicas are in step.
    pub(crate) fn start(self) -> RedisCluster {
        let count = self.primaries * (1 + self.replicas);
        let mut bus = self.has_proxies.then(Bus::default);
        let mut bus_ports = Vec::new();
        let node = |_| {
            let options = self.node.clone().bus();
            let options = if self.has_tls {
                let port = super::free_port_with_bus();
                options.line(&format!("tls-port {port}"))
            } else {
                options
            };
            let Some(bus) = &mut bus else {
                return options.start();
            };
            let node = options.start();
            let bus_port = node.port() + 10_000;
            let announced = bus.proxy_to(bus_port);
            let number = announced.to_string();
            node.command(&["CONFIG", "SET", "cluster-announce-bus-port", &number]);
            bus.name(bus_port, node.get(&["CLUSTER", "MYID"]));
            bus_ports.push(announced);
            node
        };
        let nodes = (0..count).map(node).collect();
        let cluster = RedisCluster {
            nodes,
            primaries: self.primaries,
            user: self.user,
            has_tls: self.has_tls,
            bus,
            bus_ports,
        };
        cluster.form();
        cluster
    }
}

impl RedisCluster {
    pub(crate) fn start(primaries: usize, replicas: usize) -> Self {
        ClusterOptions::new(primaries, replicas).start()
    }

    fn form(&self) {
        let share = SLOTS.div_ceil(self.primaries);
        for (index, node) in self.nodes.iter().enumerate() {
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]);
            // Each meets each: gossip alone takes seconds.
            for other in 0..index {
                let port = self.bus_base(&self.nodes[other]).to_string();
                let bus = self.bus_ports.get(other).map(u16::to_string);
                let mut meet = vec!["CLUSTER", "MEET", "127.0.0.1", &port];
                meet.extend(bus.as_deref());
                node.command(&meet);
            }
            if index < self.primaries {
                node.add_slots(index * share..SLOTS.min((index + 1) * share));
            }
        }
        let known = format!("cluster_known_nodes:{}", self.nodes.len());
        until("the nodes know each other", || {
            self.nodes.iter().all(|node| node.info().contains(&known))
        });
        for (index, node) in self.nodes.iter().enumerate().skip(self.primaries) {
            let id: String = self.nodes[index % self.primaries].get(&["CLUSTER", "MYID"]);
            until("the replica knows its primary", || {
                node.try_get::<()>(&["CLUSTER", "REPLICATE", &id]).is_ok()
            });
        }
        self.settle();
    }

    /// The port 10,000 below the bus.
    fn bus_base(&self, node: &RedisServer) -> u16 {
        if self.has_tls {
            let setting: (String, u16) = node.get(&["CONFIG", "GET", "tls-port"]);
            setting.1
        } else {
            node.port()
        }
    }

    /// Waits until each node that runs serves requests, and each replica is in step.
    pub(crate) fn settle(&self) {
        until("all nodes are up", || {
            self.nodes.iter().all(|node| {
                let info = node.info();
                info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
            })
        });
        until("all replicas are in step", || {
            self.nodes.iter().all(|node| {
                let info: String = node.get(&["INFO", "replication"]);
                info.contains("role:master") || info.contains("master_link_status:up")
            })
        });
        // A view that counts all replicas is complete.
        let replicas = self.nodes.len() - self.primaries;
        until("all nodes see all replicas", || {
            self.nodes.iter().all(|node| {
                let nodes: String = node.get(&["CLUSTER", "NODES"]);
                nodes.matches("slave").count() == replicas
            })
        });
    }

    /// Cuts a primary off from all other nodes. Clients still reach it.
    pub(crate) fn isolate(&self, node: usize) {
        let node = &self.nodes[node];
        let id: String = node.get(&["CLUSTER", "MYID"]);
        self.bus.as_ref().expect("proxies").isolate(&id);
        // Replicas use the port of the clients.
        node.command(&["ACL", "SETUSER", "default", "-psync", "-sync"]);
        node.command(&["CLIENT", "KILL", "TYPE", "replica"]);
    }

    /// Ends the isolation.
    pub(crate) fn heal(&self, node: usize) {
        self.nodes[node].command(&["ACL", "SETUSER", "default", "+@all"]);
        self.bus.as_ref().expect("proxies").heal();
    }

    /// The URL of all nodes.
    pub(crate) fn url(&self) -> String {
        let hosts: Vec<_> = self
            .nodes
            .iter()
            .map(|node| format!("127.0.0.1:{}", node.port()))
            .collect();
        format!("redis+cluster://{}{}", self.user, hosts.join(","))
    }

    pub(crate) fn primaries(&self) -> &[RedisServer] {
        &self.nodes[..self.primaries]
    }

    /// The index of the node that serves a slot now, as `of` sees it.
    pub(crate) fn owner(&self, of: usize, slot: usize) -> usize {
        let nodes: String = self.nodes[of].get(&["CLUSTER", "NODES"]);
        let has = |line: &&str| {
            line.contains("master") && !line.contains("fail")
                && line.split(' ').skip(8).any(|range| {
                    let (first, last) = range.split_once('-').unwrap_or((range, range));
                    let number = |text: &str| text.parse::<usize>();
                    matches!((number(first), number(last)), (Ok(first), Ok(last)) if (first..=last).contains(&slot))
                })
        };
        let line = nodes
            .lines()
            .find(has)
            .unwrap_or_else(|| panic!("no owner of {slot}:\n{nodes}"));
        let port = |node: &RedisServer| line.contains(&format!("127.0.0.1:{}@", node.port()));
        self.nodes.iter().position(port).expect("a node of ours")
    }

    pub(crate) fn slot(&self, key: &str) -> usize {
        self.nodes[0].get(&["CLUSTER", "KEYSLOT", key])
    }

    /// The calls of a command on all nodes.
    pub(crate) fn calls(&self, command: &str) -> u64 {
        self.nodes.iter().map(|node| node.calls(command)).sum()
    }

    /// The replies of this error code of all nodes.
    pub(crate) fn errors(&self, code: &str) -> u64 {
        let start = format!("errorstat_{code}:count=");
        let errors = |node: &RedisServer| {
            let stats: String = node.get(&["INFO", "errorstats"]);
            let count = stats.lines().find_map(|line| line.strip_prefix(&start));
            count.map_or(0, |count| count.parse::<u64>().expect("a number"))
        };
        self.nodes.iter().map(errors).sum()
    }

    /// Moves a slot from one node to another. Between the steps it calls `at` with a number: 0 when both nodes know, 1
    /// when the keys have moved.
    pub(crate) fn move_slot(&self, slot: usize, from: usize, to: usize, mut at: impl FnMut(u32)) {
        let (from, to) = (&self.nodes[from], &self.nodes[to]);
        let id = |node: &RedisServer| node.get::<String>(&["CLUSTER", "MYID"]);
        let (from_id, to_id, slot) = (id(from), id(to), slot.to_string());
        to.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
        from.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
        at(0);
        loop {
            let keys: Vec<String> = from.get(&["CLUSTER", "GETKEYSINSLOT", &slot, "1"]);
            let Some(key) = keys.first() else { break };
            let port = to.port().to_string();
            from.command(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
        }
        at(1);
        for node in [to, from] {
            node.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]);
        }
    }
}

impl RedisServer {
    /// Lets a node serve slots.
    pub(crate) fn add_slots(&self, slots: std::ops::Range<usize>) {
        // `ADDSLOTSRANGE` is of Redis 7.0.
        let slots: Vec<String> = slots.map(|slot| slot.to_string()).collect();
        let mut command = vec!["CLUSTER", "ADDSLOTS"];
        command.extend(slots.iter().map(String::as_str));
        self.command(&command);
    }

    fn info(&self) -> String {
        self.get(&["CLUSTER", "INFO"])
    }
}

/// Waits until a condition holds.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !is_so() {
        assert!(
            start.elapsed() < TIMEOUT,
            "not so after {TIMEOUT:?}: {what}"
        );
        sleep(Duration::from_millis(20));
    }
    start.elapsed()
}
