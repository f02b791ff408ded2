//! A primary, its replicas and sentinels of one test.

use super::cluster::until;
use super::redis::RedisServer;

/// The name of the primary.
pub(crate) const NAME: &str = "main";
const SENTINELS: usize = 3;
/// The documented rights of the user `limiter`.
const SERVER_RIGHTS: &str = "~{sluice:* +evalsha +eval +time +ping +get +set +del +role";
const SENTINEL_RIGHTS: &str = "+subscribe +sentinel|get-master-addr-by-name +sentinel|master &+switch-master &+selected-slave &+promoted-slave";

/// Servers and sentinels. A drop kills them.
#[derive(Debug)]
pub(crate) struct Sentinels {
    pub(crate) servers: Vec<RedisServer>,
    pub(crate) sentinels: Vec<RedisServer>,
    settings: Settings,
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
        let server = |primary: Option<u16>| {
            let mut options = RedisServer::options()
                .line("repl-diskless-sync-delay 0")
                .line(&format!("user limiter on >least {SERVER_RIGHTS}"));
            if let Some(password) = settings.password {
                options = options
                    .password(password)
                    .line(&format!("masterauth {password}"));
            }
            match primary {
                Some(port) => options.line(&format!("replicaof 127.0.0.1 {port}")),
                None => options,
            }
            .start()
        };
        let primary = server(None);
        let port = primary.port();
        let mut servers = vec![primary];
        servers.extend((0..replicas).map(|_| server(Some(port))));
        let mut sentinel = RedisServer::options()
            .sentinel()
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
        let started = Self {
            sentinels: (0..SENTINELS).map(|_| sentinel.clone().start()).collect(),
            servers,
            settings,
        };
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
