//! A primary, its replicas and sentinels of one test.

use super::cluster::until;
use super::redis::{Options, RedisServer};

/// The name of the primary.
pub(crate) const NAME: &str = "main";
const SENTINELS: usize = 3;
/// The documented rights of the user `limiter`.
const SERVER_RIGHTS: &str = "~{sluice:* +evalsha +eval +time +ping +get +mget +set +del +role";
const SENTINEL_RIGHTS: &str = "resetchannels +subscribe +sentinel|get-master-addr-by-name +sentinel|master &+switch-master &+selected-slave &+promoted-slave";

/// Servers and sentinels. A drop kills them.
#[derive(Debug)]
pub(crate) struct Sentinels {
    pub(crate) servers: Vec<RedisServer>,
    pub(crate) sentinels: Vec<RedisServer>,
    settings: Settings,
    /// The ports for TLS of the sentinels, if all use TLS.
    tls_ports: Vec<u16>,
}

/// The credentials in the URL.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Settings {
    /// The password of the servers, and of the sentinels.
    pub(crate) password: Option<&'static str>,
    pub(crate) sentinel_password: Option<&'static str>,
}

impl Sentinels {
    pub(crate) fn start(replicas: usize) -> Self {
        Self::with(replicas, Settings::default())
    }

    /// Starts the servers and waits until the sentinels know each other and all replicas.
    pub(crate) fn with(replicas: usize, settings: Settings) -> Self {
        Self::build(replicas, settings, None)
    }

    /// The same, with TLS between all servers and sentinels. They announce addresses.
    #[cfg(feature = "tls")]
    pub(crate) fn tls(certificate: &super::tls::Certificate) -> Self {
        Self::build(1, Settings::default(), Some(&certificate.lines()))
    }

    /// `tls` has lines of `redis.conf`.
    fn build(replicas: usize, settings: Settings, tls: Option<&[String]>) -> Self {
        // The options with a port for TLS, and the port that others use.
        let secure = |options: Options| {
            let Some(lines) = tls else {
                return (options, None);
            };
            let port = super::free_port();
            let options = options
                .line(&format!("tls-port {port}"))
                .line("tls-replication yes");
            let options = lines
                .iter()
                .fold(options, |options, line| options.line(line));
            (options, Some(port))
        };
        let server = |primary: Option<u16>| {
            let (options, tls_port) = secure(RedisServer::options());
            let mut options = options
                .keep_config()
                .line("repl-diskless-sync-delay 0")
                .line(&format!("user limiter on >least {SERVER_RIGHTS}"));
            if let Some(password) = settings.password {
                options = options
                    .password(password)
                    .line(&format!("masterauth {password}"));
            }
            let server = match primary {
                Some(port) => options.line(&format!("replicaof 127.0.0.1 {port}")),
                None => options,
            }
            .start();
            let port = tls_port.unwrap_or_else(|| server.port());
            (server, port)
        };
        let (primary, port) = server(None);
        let mut servers = vec![primary];
        servers.extend((0..replicas).map(|_| server(Some(port)).0));
        let mut sentinel = RedisServer::options()
            .sentinel()
            .keep_config()
            .line(&format!("sentinel monitor {NAME} 127.0.0.1 {port} 2"))
            .line(&format!("sentinel down-after-milliseconds {NAME} 1000"))
            .line(&format!("sentinel failover-timeout {NAME} 5000"))
            .line(&format!("user limiter on >least {SENTINEL_RIGHTS}"));
        if let Some(password) = settings.password {
            sentinel = sentinel.line(&format!("sentinel auth-pass {NAME} {password}"));
        }
        if let Some(password) = settings.sentinel_password {
            sentinel = sentinel
                .password(password)
                .line(&format!("sentinel sentinel-pass {password}"));
        }
        let sentinels = (0..SENTINELS).map(|_| {
            let (options, tls_port) = secure(sentinel.clone());
            (options.start(), tls_port)
        });
        let (sentinels, tls_ports): (_, Vec<_>) = sentinels.unzip();
        let started = Self {
            sentinels,
            servers,
            settings,
            tls_ports: tls_ports.into_iter().flatten().collect(),
        };
        for sentinel in &started.sentinels {
            hurry(sentinel);
        }
        started.settle();
        started
    }

    /// Waits until each sentinel knows the others and all replicas, and all replicas are in step.
    pub(crate) fn settle(&self) {
        let replicas = format!("slaves={}", self.servers.len() - 1);
        until("the sentinels know everything", || {
            self.sentinels.iter().all(|sentinel| {
                let info: String = sentinel.get(&["INFO", "sentinel"]);
                info.contains("status=ok")
                    && info.contains(&replicas)
                    && info.contains("sentinels=3")
            })
        });
        until("all replicas are in step", || {
            let up = |server: &RedisServer| {
                // A sentinel closes the connections of a server whose role it changes.
                let info = server.try_get::<String>(&["INFO", "replication"]);
                info.is_ok_and(|info| info.contains("master_link_status:up"))
            };
            self.servers.iter().filter(|server| up(server)).count() == self.servers.len() - 1
        });
    }

    pub(crate) fn url(&self) -> String {
        let hosts: Vec<_> = self
            .sentinels
            .iter()
            .map(|one| format!("127.0.0.1:{}", one.port()))
            .collect();
        let user = self
            .settings
            .password
            .map(|password| format!(":{password}@"));
        let option = self.settings.sentinel_password;
        let option = option.map(|password| format!("?sentinel_password={password}"));
        format!(
            "redis+sentinel://{}{}/{NAME}{}",
            user.unwrap_or_default(),
            hosts.join(","),
            option.unwrap_or_default()
        )
    }

    /// The URL of the ports for TLS, by the name in the certificate.
    pub(crate) fn tls_url(&self) -> String {
        let hosts: Vec<_> = self
            .tls_ports
            .iter()
            .map(|port| format!("localhost:{port}"))
            .collect();
        format!("rediss+sentinel://{}/{NAME}", hosts.join(","))
    }

    /// The index of the primary, as the first sentinel sees it.
    pub(crate) fn primary(&self) -> usize {
        let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME];
        let (_, port): (String, u16) = self.sentinels[0].get(&words);
        self.servers
            .iter()
            .position(|server| server.port() == port)
            .expect("a server of ours")
    }
}

/// Lets a sentinel look at all servers each second, and demote a returned primary after 2 s, in place of 10 s and 8 s.
/// Redis 6.2 cannot, and takes longer.
fn hurry(sentinel: &RedisServer) {
    let periods = ["INFO-PERIOD", "1000", "PUBLISH-PERIOD", "500"];
    let _ = sentinel.try_get::<()>(&[&["SENTINEL", "DEBUG"], &periods[..]].concat());
}
