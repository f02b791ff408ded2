//! Faults of a server that an operator must repair.

/// The fault of a server that answers but cannot keep limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Misconfiguration {
    Permission,
    Memory,
    WrongType,
    ClusterNode,
    Replica,
    WordSize,
    Authentication,
    UnknownCommand,
}

impl Misconfiguration {
    pub(super) const COUNT: usize = Self::UnknownCommand as usize + 1;

    /// Returns the fault that an error code shows.
    pub(super) fn of_code(code: &str) -> Option<Self> {
        match code {
            "NOPERM" => Some(Self::Permission),
            "OOM" => Some(Self::Memory),
            "MOVED" | "ASK" | "CLUSTERDOWN" => Some(Self::ClusterNode),
            "READONLY" => Some(Self::Replica),
            "NOAUTH" | "WRONGPASS" => Some(Self::Authentication),
            _ => None,
        }
    }

    pub(super) const fn cause(self) -> &'static str {
        match self {
            Self::Permission => "the Redis user lacks a permission",
            Self::Memory => "Redis is out of memory and rejects writes",
            Self::WrongType => "a key of this prefix holds a value of another format",
            Self::ClusterNode => "the server is a node of a Redis Cluster and lacks some keys",
            Self::Replica => "the server is a replica of Redis and rejects writes",
            Self::WordSize => "the server is a 32-bit build of Redis",
            Self::Authentication => "Redis rejects the user or its password",
            Self::UnknownCommand => "the server lacks a required command",
        }
    }

    pub(super) const fn remedy(self) -> &'static str {
        match self {
            Self::Permission => {
                "grant the commands and keys that `tower_sluice::backend::redis` lists, by ACL SETUSER"
            }
            Self::Memory => "raise maxmemory, or use a separate Redis for limits",
            Self::WrongType => "delete the key, or set another prefix by `RedisBuilder::prefix`",
            Self::ClusterNode => {
                "use a URL of the whole cluster, as in redis+cluster://host:port,host:port (feature `cluster`)"
            }
            Self::Replica => {
                "connect to the primary, or use a URL that follows it, as in redis+sentinel://host:port/name (feature `sentinel`)"
            }
            Self::WordSize => "use a 64-bit build",
            Self::Authentication => {
                "set user and password in the URL, as in redis://user:password@host"
            }
            Self::UnknownCommand => {
                "enable EVAL and EVALSHA, or set `Atomicity::Optimistic` by `RedisBuilder::atomicity`"
            }
        }
    }
}
