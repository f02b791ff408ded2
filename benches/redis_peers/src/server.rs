//! A redis-server of its own, and the CPU time of both sides.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;

use crate::Error;

/// A redis-server that a drop ends.
pub(crate) struct Server {
    process: Child,
    port: u16,
    /// Whether it has the module redis-cell.
    pub(crate) has_cell: bool,
}

impl Server {
    /// Starts a server, with the module redis-cell if the variable `REDIS_CELL` names its file.
    pub(crate) async fn start() -> Result<Self, Error> {
        let module = std::env::var_os("REDIS_CELL").map(PathBuf::from);
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &port.to_string(),
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        if let Some(module) = &module {
            if !Path::new(module).exists() {
                return Err(format!("REDIS_CELL: {}: no such file", module.display()).into());
            }
            command.arg("--loadmodule").arg(module);
        }
        let process = command.stdout(Stdio::null()).spawn()?;
        let server = Self {
            process,
            port,
            has_cell: module.is_some(),
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while server.connection().await.is_err() {
            if Instant::now() > deadline {
                return Err("the server does not answer within 10 s".into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(server)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    pub(crate) async fn connection(&self) -> Result<MultiplexedConnection, Error> {
        let client = redis::Client::open(self.url())?;
        // A pause of the machine delays a decision, and ends no run.
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
        Ok(client
            .get_multiplexed_async_connection_with_config(&config)
            .await?)
    }

    pub(crate) async fn version(&self) -> Result<String, Error> {
        let info = self.info("server").await?;
        Ok(value(&info, "redis_version:").unwrap_or("?").to_owned())
    }

    /// Seconds of CPU that the server has used.
    pub(crate) async fn cpu(&self) -> Result<f64, Error> {
        let info = self.info("cpu").await?;
        let seconds = |name| -> Result<f64, Error> { Ok(value(&info, name).ok_or(name)?.parse()?) };
        Ok(seconds("used_cpu_user:")? + seconds("used_cpu_sys:")?)
    }

    async fn info(&self, section: &str) -> Result<String, Error> {
        let mut connection = self.connection().await?;
        Ok(redis::cmd("INFO")
            .arg(section)
            .query_async(&mut connection)
            .await?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn value<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

/// Seconds of CPU that this process has used, from `/proc/self/stat`, in hundredths.
pub(crate) fn client_cpu() -> Result<f64, Error> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("a line without a name")?;
    let fields: Vec<_> = fields.split(' ').collect();
    // `utime` is field 14 of proc(5), the first one here field 3.
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}
