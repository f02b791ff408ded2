//! A redis-server of one test: its process, its port, its folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use redis::{FromRedisValue, RedisResult, Value};

/// The longest time that a server takes to start or to answer a command of a test.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The settings of a server: lines of `redis.conf`, beside the defaults of the tests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    lines: Vec<String>,
    /// The server program; `SLUICE_REDIS_SERVER` or `redis-server` by default.
    program: Option<PathBuf>,
    password: Option<String>,
    /// Whether a cluster bus is at the port plus 10,000.
    has_bus: bool,
    is_sentinel: bool,
    keeps_config: bool,
}

impl Options {
    /// A line of `redis.conf`: `appendonly yes`, `user limiter on >secret ~{sluice:* +evalsha`.
    pub(crate) fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// Another build of `redis-server`.
    pub(crate) fn program(mut self, program: &Path) -> Self {
        self.program = Some(program.to_owned());
        self
    }

    /// `requirepass`. The commands of the test use it.
    pub(crate) fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self.line(&format!("requirepass {password}"))
    }

    /// A sentinel, which runs in another mode of the same program.
    pub(crate) fn sentinel(mut self) -> Self {
        self.is_sentinel = true;
        self
    }

    /// A restart keeps what the server or a sentinel has written to the configuration.
    pub(crate) fn keep_config(mut self) -> Self {
        self.keeps_config = true;
        self
    }

    /// A node of a cluster, which needs two ports.
    pub(crate) fn bus(mut self) -> Self {
        self.has_bus = true;
        self
    }

    fn free_port(&self) -> u16 {
        if self.has_bus {
            super::free_port_with_bus()
        } else {
            super::free_port()
        }
    }

    /// Starts a server and waits until it replies.
    pub(crate) fn start(self) -> RedisServer {
        let mut server = self.prepare();
        server.restart();
        server
    }

    /// A server that does not run yet. [`RedisServer::restart`] starts it.
    pub(crate) fn prepare(self) -> RedisServer {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = std::env::temp_dir().join(format!(
            "sluice-redis-{}-{}-{:08x}",
            std::process::id(),
            COUNT.fetch_add(1, Relaxed),
            rand::random::<u32>()
        ));
        fs::create_dir(&dir).unwrap_or_else(|why| panic!("{}: {why}", dir.display()));
        RedisServer {
            process: None,
            port: self.free_port(),
            has_run: false,
            dir,
            options: self,
        }
    }
}

/// A redis-server. A drop kills it and removes its folder.
#[derive(Debug)]
pub(crate) struct RedisServer {
    process: Option<Child>,
    port: u16,
    has_run: bool,
    dir: PathBuf,
    options: Options,
}

impl RedisServer {
    pub(crate) fn start() -> Self {
        Self::options().start()
    }

    pub(crate) fn options() -> Options {
        Options::default()
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// The URL of the default user, with its password if there is one.
    pub(crate) fn url(&self) -> String {
        match &self.options.password {
            Some(password) => self.url_of("", password),
            None => format!("redis://127.0.0.1:{}/", self.port),
        }
    }

    pub(crate) fn url_of(&self, user: &str, password: &str) -> String {
        format!("redis://{user}:{password}@127.0.0.1:{}/", self.port)
    }

    /// The URL of the socket in the server's folder.
    pub(crate) fn unix_url(&self) -> String {
        format!("redis+unix://{}", self.dir.join("socket").display())
    }

    /// Starts the server at its previous port, if it does not run. Returns once its data is loaded.
    pub(crate) fn restart(&mut self) {
        let deadline = Instant::now() + TIMEOUT;
        self.restart_loading();
        while self.is_loading() {
            assert!(Instant::now() < deadline, "{}", self.log());
            sleep(Duration::from_millis(5));
        }
    }

    /// The same, but returns while the server may still load its data.
    pub(crate) fn restart_loading(&mut self) {
        let deadline = Instant::now() + TIMEOUT;
        while self.process.is_none() {
            self.process = Some(self.spawn());
            if let Err(why) = self.wait_until_it_answers(deadline) {
                self.kill9();
                assert!(Instant::now() < deadline, "{why}\n{}", self.log());
                // Another process took the port. A port that clients know cannot change.
                if !self.has_run {
                    self.port = self.options.free_port();
                }
            }
        }
        self.has_run = true;
    }

    pub(crate) fn is_loading(&self) -> bool {
        if self.options.is_sentinel {
            return false;
        }
        let state: String = self.get(&["INFO", "persistence"]);
        state.lines().any(|line| line.starts_with("loading:1"))
    }

    fn spawn(&self) -> Child {
        let mut config = format!(
            "bind 127.0.0.1\nport {}\ndir {dir}\nlogfile {dir}/log\ndaemonize no\n",
            self.port,
            dir = self.dir.display()
        );
        if !self.options.is_sentinel {
            config.push_str(&format!(
                "unixsocket {}/socket\nsave \"\"\n",
                self.dir.display()
            ));
        }
        for line in &self.options.lines {
            config.push_str(line);
            config.push('\n');
        }
        let path = self.dir.join("redis.conf");
        if !(self.has_run && self.options.keeps_config) {
            fs::write(&path, config).expect("a new folder");
        }
        Command::new(self.options.program.clone().unwrap_or_else(program))
            .arg(path)
            .args(self.options.is_sentinel.then_some("--sentinel"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|why| match why.kind() {
                io::ErrorKind::NotFound => panic!(
                    "redis-server is missing: apt-get install redis-server, or run tests/run.sh"
                ),
                _ => panic!("redis-server: {why}"),
            })
    }

    /// The reply must come from this process, not from an earlier server at the port.
    fn wait_until_it_answers(&mut self, deadline: Instant) -> Result<(), String> {
        let url = self.url();
        let process = self.process.as_mut().expect("spawned");
        let ours = format!("process_id:{}\r", process.id());
        loop {
            if let Some(status) = process.try_wait().expect("a child") {
                return Err(format!("redis-server has ended at once: {status}"));
            }
            let why = match command::<String>(&url, &["INFO", "server"]) {
                Ok(info) if info.lines().any(|line| ours.starts_with(line)) => return Ok(()),
                Ok(_) => return Err(format!("another server has port {}", self.port)),
                Err(why) => why,
            };
            if Instant::now() > deadline {
                return Err(format!("redis-server does not answer: {why}"));
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// Kills the server like a crash: connections are reset, and unsaved data is lost.
    pub(crate) fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("a child process");
            process.wait().expect("a child process");
        }
    }

    /// Pauses the process: connections stay open, and no reply arrives.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    /// The id of the process.
    pub(crate) fn id(&self) -> u32 {
        self.process.as_ref().expect("the server runs").id()
    }

    fn signal(&self, signal: &str) {
        let id = self.id().to_string();
        let sent = Command::new("sh")
            .args(["-c", "kill $0 $1", signal, &id])
            .status();
        assert!(sent.expect("a shell").success(), "kill {signal} {id}");
    }

    /// The reply to a command, on a new connection.
    pub(crate) fn command(&self, command: &[&str]) -> Value {
        self.get(command)
    }

    /// The same, as any type that redis-rs converts to.
    pub(crate) fn get<T: FromRedisValue>(&self, command: &[&str]) -> T {
        self.try_get(command)
            .unwrap_or_else(|why| panic!("{command:?}: {why}\n{}", self.log()))
    }

    pub(crate) fn try_get<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        command(&self.url(), words)
    }

    /// All keys, sorted.
    pub(crate) fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.get(&["KEYS", "*"]);
        keys.sort_unstable();
        keys
    }

    /// The number of calls of a command since the start or `CONFIG RESETSTAT`, including calls of scripts.
    pub(crate) fn calls(&self, command: &str) -> u64 {
        let stats: String = self.get(&["INFO", "commandstats"]);
        let start = format!("cmdstat_{}:calls=", command.to_lowercase());
        let calls = stats.lines().find_map(|line| line.strip_prefix(&start));
        calls.map_or(0, |calls| {
            let digits = calls.split(',').next().expect("a number");
            digits.parse().expect("a number")
        })
    }

    /// The end of the server log.
    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // Not `kill9`: a panic in a drop would hide the first one.
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The server program of all tests. The environment variable `SLUICE_REDIS_SERVER` names another one, such as a build of
/// Valkey; see `tests/servers.sh`.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("SLUICE_REDIS_SERVER").map_or_else(|| "redis-server".into(), PathBuf::from)
}

/// The version of the server program: the name (`Redis`, `Valkey`), and the major and minor number.
pub(crate) fn version() -> (String, (u32, u32)) {
    let shown = Command::new(program()).arg("--version").output();
    let shown = String::from_utf8(shown.expect("the program runs").stdout).expect("UTF-8");
    let name = shown.split_whitespace().next().expect("a name").to_owned();
    let numbers = shown.split_once("v=").expect("a version").1;
    let mut numbers = numbers
        .split('.')
        .map(|number| number.parse().expect("a number"));
    let mut next = || numbers.next().expect("two numbers");
    (name, (next(), next()))
}

/// The reply of any server to a command, on a new connection.
pub(crate) fn command<T: FromRedisValue>(url: &str, words: &[&str]) -> RedisResult<T> {
    let mut connection = redis::Client::open(url)?.get_connection_with_timeout(TIMEOUT)?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    let mut command = redis::Cmd::new();
    command.arg(words).query(&mut connection)
}
