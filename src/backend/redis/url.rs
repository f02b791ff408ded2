//! URLs of servers: one server, or the nodes of a cluster.

#[cfg(feature = "sentinel")]
use percent_encoding::percent_decode_str;

use super::super::BackendError;
use super::adapter::RedisClient;

/// Examples in messages.
pub(super) const SINGLE: &str = "redis://127.0.0.1:6379/0";
#[cfg(feature = "sentinel")]
const SENTINEL: &str = "redis+sentinel://10.0.0.1:26379,10.0.0.2:26379/mymaster/0";
#[cfg(feature = "cluster")]
pub(super) const CLUSTER: &str = "redis+cluster://10.0.0.1:6379,10.0.0.2:6379";

/// The server or the servers that a URL names.
pub(super) enum ServerUrl {
    Single(RedisClient),
    /// Some nodes of a cluster.
    #[cfg(feature = "cluster")]
    Cluster(Vec<RedisClient>),
    #[cfg(feature = "sentinel")]
    Sentinel(SentinelUrl),
}

/// The parts of a Sentinel URL.
#[cfg(feature = "sentinel")]
pub(super) struct SentinelUrl {
    pub(super) sentinels: Vec<RedisClient>,
    pub(super) name: String,
    /// A client with the credentials and the database of the primary.
    pub(super) template: RedisClient,
}

impl ServerUrl {
    pub(super) fn parse(url: &str) -> Result<Self, BackendError> {
        let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
        match &*scheme.to_ascii_lowercase() {
            "redis+cluster" => Self::cluster("redis", rest),
            "rediss+cluster" => Self::cluster("rediss", rest),
            "redis+sentinel" => Self::sentinel("redis", rest),
            "rediss+sentinel" => Self::sentinel("rediss", rest),
            _ => RedisClient::from_url(url, SINGLE).map(Self::Single),
        }
    }

    #[cfg(feature = "cluster")]
    fn cluster(scheme: &str, rest: &str) -> Result<Self, BackendError> {
        let clients = each_host(scheme, rest).map(|url| RedisClient::from_url(&url, CLUSTER));
        clients.collect::<Result<_, _>>().map(Self::Cluster)
    }

    /// Reads `user:password@host:port,host:port/name/0?sentinel_user=..&sentinel_password=..`.
    #[cfg(feature = "sentinel")]
    fn sentinel(scheme: &str, rest: &str) -> Result<Self, BackendError> {
        let invalid = |why: &str| {
            BackendError::config(format!(
                "invalid Redis URL: {why}; use for example {SENTINEL:?}"
            ))
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (name, database) = path.split_once('/').unwrap_or((path, ""));
        if name.is_empty() {
            return Err(invalid("it has no name of a primary"));
        }
        let name = percent_decode_str(name)
            .decode_utf8()
            .map_err(|_| invalid("the name is not UTF-8"))?;
        let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (mut sentinel_user, mut sentinel_password, mut options) = ("", None, Vec::new());
        for option in query.split('&').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("sentinel_user", user)) => sentinel_user = user,
                Some(("sentinel_password", password)) => sentinel_password = Some(password),
                _ => options.push(option),
            }
        }
        let options = if options.is_empty() {
            String::new()
        } else {
            format!("?{}", options.join("&"))
        };
        // The host is replaced by that of the primary.
        let template = format!("{scheme}://{user}@primary.invalid/{database}{options}");
        let of_sentinel = match sentinel_password {
            Some(password) => format!("{sentinel_user}:{password}@"),
            None if sentinel_user.is_empty() => String::new(),
            None => return Err(invalid("it has a sentinel_user and no sentinel_password")),
        };
        let sentinel = |host: &str| {
            let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
            let port = if has_port { "" } else { ":26379" };
            let url = format!("{scheme}://{of_sentinel}{host}{port}");
            RedisClient::from_url(&url, SENTINEL)
        };
        Ok(Self::Sentinel(SentinelUrl {
            sentinels: hosts.split(',').map(sentinel).collect::<Result<_, _>>()?,
            name: name.into_owned(),
            template: RedisClient::from_url(&template, SENTINEL)?,
        }))
    }

    #[cfg(not(feature = "sentinel"))]
    fn sentinel(_: &str, _: &str) -> Result<Self, BackendError> {
        Err(BackendError::config(
            r#"the scheme "redis+sentinel:" needs the feature "sentinel" of tower-sluice; enable it in Cargo.toml"#,
        ))
    }

    #[cfg(not(feature = "cluster"))]
    fn cluster(_: &str, _: &str) -> Result<Self, BackendError> {
        Err(BackendError::config(
            r#"the scheme "redis+cluster:" needs the feature "cluster" of tower-sluice; enable it in Cargo.toml"#,
        ))
    }
}

/// Returns a URL for each host of `user:password@host:port,host:port/0?options`.
#[cfg(feature = "cluster")]
fn each_host(scheme: &str, rest: &str) -> impl Iterator<Item = String> {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    };
    let url = move |host: &str| format!("{scheme}://{user}{host}{tail}");
    hosts.split(',').map(url)
}

#[cfg(all(test, feature = "cluster", feature = "sentinel"))]
mod tests {
    use super::*;

    fn sentinel(url: &str) -> SentinelUrl {
        match ServerUrl::parse(url) {
            Ok(ServerUrl::Sentinel(url)) => url,
            Ok(_) => panic!("{url} is of another kind"),
            Err(error) => panic!("{url}: {error}"),
        }
    }

    #[test]
    fn sentinel_url_has_credentials_of_both_kinds_of_server() {
        let url = sentinel(
            "redis+sentinel://ann:p%40ss@a,[::1],b:7/my%20main/3?sentinel_user=s&sentinel_password=t&protocol=resp3",
        );
        assert_eq!(url.name, "my main");
        let infos = url
            .sentinels
            .iter()
            .map(|client| client.client().get_connection_info().clone());
        let shown: Vec<_> = infos.clone().map(|info| info.addr().to_string()).collect();
        assert_eq!(shown, ["a:26379", "::1:26379", "b:7"]);
        for info in infos {
            let settings = info.redis_settings();
            assert_eq!(
                (settings.username(), settings.password()),
                (Some("s"), Some("t"))
            );
            assert_eq!(settings.db(), 0);
        }
        let primary = url.template.client().get_connection_info().clone();
        let settings = primary.redis_settings();
        assert_eq!(
            (settings.username(), settings.password()),
            (Some("ann"), Some("p@ss"))
        );
        assert_eq!(settings.db(), 3);
        assert_eq!(settings.protocol(), redis::ProtocolVersion::RESP3);
        let plain = sentinel("redis+sentinel://a:1/main");
        assert_eq!(
            plain
                .template
                .client()
                .get_connection_info()
                .redis_settings()
                .password(),
            None
        );
    }

    #[test]
    fn invalid_sentinel_url_error_shows_a_valid_one() {
        for (url, why) in [
            ("redis+sentinel://a:1", "it has no name of a primary"),
            ("redis+sentinel://a:1//0", "it has no name of a primary"),
            (
                "redis+sentinel://a:1/main/0?sentinel_user=s",
                "it has a sentinel_user and no sentinel_password",
            ),
            ("redis+sentinel://a:1/%ff", "the name is not UTF-8"),
        ] {
            let Err(error) = ServerUrl::parse(url) else {
                panic!("{url} was read");
            };
            assert_eq!(
                error.to_string(),
                format!("invalid Redis URL: {why}; use for example {SENTINEL:?}")
            );
        }
    }

    #[test]
    fn every_host_gets_the_credentials_and_the_options() {
        let urls: Vec<_> =
            each_host("rediss", "user:p%40ss@a:1,[::1]:2,c/0?protocol=resp3").collect();
        assert_eq!(
            urls,
            [
                "rediss://user:p%40ss@a:1/0?protocol=resp3",
                "rediss://user:p%40ss@[::1]:2/0?protocol=resp3",
                "rediss://user:p%40ss@c/0?protocol=resp3",
            ]
        );
        assert_eq!(
            each_host("redis", "a,b").collect::<Vec<_>>(),
            ["redis://a", "redis://b"]
        );
    }

    #[test]
    fn invalid_url_error_shows_a_cluster_url_and_no_password() {
        for url in [
            "redis+cluster://",
            "redis+cluster://:hunter2@a:x,b:1",
            "redis+cluster://:hunter2@a:1,,b",
        ] {
            let error = match ServerUrl::parse(url) {
                Err(error) => error.to_string(),
                Ok(_) => panic!("{url} was read"),
            };
            assert!(
                error.ends_with(r#"use for example "redis+cluster://10.0.0.1:6379,10.0.0.2:6379""#),
                "{error}"
            );
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
