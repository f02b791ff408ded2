//! The test servers and the test proxy do what the tests rely on.

use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisResult, Value};

use crate::harness::guarded;
use crate::support::proxy::{Mode, Proxy};
use crate::support::redis::{RedisServer, command};

const INCR: &str = "return redis.call('INCR', KEYS[1])";

fn incr() -> Cmd {
    let mut incr = Cmd::new();
    incr.arg("EVAL").arg(INCR).arg("1").arg("n");
    incr
}

async fn connect(proxy: &Proxy) -> RedisResult<MultiplexedConnection> {
    let client = redis::Client::open(proxy.url())?;
    client.get_multiplexed_async_connection().await
}

#[test]
fn a_server_has_its_own_port_and_folder_and_leaves_neither() {
    let first = RedisServer::start();
    let second = RedisServer::start();
    assert_ne!((first.port(), first.dir()), (second.port(), second.dir()));
    first.command(&["SET", "who", "first"]);
    assert_eq!(second.command(&["GET", "who"]), Value::Nil);
    let (url, dir) = (first.url(), first.dir().to_owned());
    let by_socket = command::<String>(&first.unix_url(), &["GET", "who"]);
    assert_eq!(by_socket.expect("an answer"), "first");
    drop(first);
    assert!(command::<String>(&url, &["PING"]).is_err());
    assert!(!dir.exists());
    assert_eq!(second.get::<String>(&["PING"]), "PONG");
}

#[test]
fn restarted_server_has_its_port_and_its_saved_data() {
    for (lines, survives) in [
        (["appendonly yes", "appendfsync always"], true),
        (["", ""], false),
    ] {
        let options = lines
            .iter()
            .fold(RedisServer::options(), |o, line| o.line(line));
        let mut server = options.password("s3cret").start();
        let url = server.url();
        server.command(&["SET", "a", "1"]);
        server.kill9();
        assert!(command::<String>(&url, &["PING"]).is_err());
        server.restart();
        let found: Option<String> = command(&url, &["GET", "a"]).expect("the same server");
        assert_eq!(found.is_some(), survives);
        assert!(server.calls("get") >= 1);
    }
}

#[test]
fn paused_server_replies_after_the_pause() {
    let server = RedisServer::start();
    server.pause();
    let asked = Instant::now();
    let url = server.url();
    let answer = std::thread::spawn(move || command::<String>(&url, &["PING"]));
    std::thread::sleep(Duration::from_millis(100));
    assert!(!answer.is_finished());
    server.resume();
    assert_eq!(answer.join().expect("no panic").expect("an answer"), "PONG");
    assert!(asked.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn the_proxy_cuts_after_the_request_and_in_the_reply() {
    guarded(async {
        let server = RedisServer::start();
        let proxy = Proxy::to(server.port()).await;
        let mut done = 0;
        for mode in [
            Mode::CutAfterRequest(2),
            Mode::CutInReply(2, 1),
            Mode::CutInReply(2, 99),
        ] {
            let mut connection = connect(&proxy).await.expect("the request is allowed");
            proxy.set(mode).await;
            let whole: RedisResult<i64> = incr().query_async(&mut connection).await;
            assert_eq!(whole.expect("the first passes"), done + 1);
            let cut: RedisResult<i64> = incr().query_async(&mut connection).await;
            assert!(cut.is_err(), "{mode:?}: {cut:?}");
            done += 2;
            assert_eq!(server.get::<i64>(&["GET", "n"]), done, "{mode:?}");
            assert_eq!(proxy.mode(), Mode::Pass);
        }
        assert_eq!((proxy.connections(), proxy.decisions()), (3, 6));
        assert_eq!((proxy.count("eval"), proxy.count("EVALSHA")), (6, 0));
    })
    .await;
}

#[tokio::test]
async fn the_proxy_delivers_byte_by_byte() {
    guarded(async {
        let server = RedisServer::start();
        let proxy = Proxy::to(server.port()).await;
        let mut connection = connect(&proxy).await.expect("the request is allowed");
        for (delay, least) in [(0, 0), (1, 60)] {
            proxy.set(Mode::Trickle(Duration::from_millis(delay))).await;
            let (start, before) = (Instant::now(), proxy.bytes());
            let answer: RedisResult<i64> = incr().query_async(&mut connection).await;
            assert!(answer.is_ok());
            assert!(start.elapsed() >= Duration::from_millis(least));
            let after = proxy.bytes();
            assert_eq!(after.0 - before.0, incr().get_packed_command().len() as u64);
            assert_eq!(after.1 - before.1, ":1\r\n".len() as u64);
        }
    })
    .await;
}

#[tokio::test]
async fn test_proxy_swallows_and_refuses_until_reset() {
    guarded(async {
        let server = RedisServer::start();
        let proxy = Proxy::to(server.port()).await;
        let mut hole = connect(&proxy).await.expect("the request is allowed");
        hole.set_response_timeout(Duration::from_millis(50));
        for mode in [Mode::Swallow, Mode::Pass] {
            proxy.set(mode).await;
            let swallowed: RedisResult<i64> = incr().query_async(&mut hole).await;
            assert!(swallowed.is_err_and(|why| why.is_timeout()), "{mode:?}");
        }
        assert_eq!(server.command(&["GET", "n"]), Value::Nil);

        let mut open = connect(&proxy).await.expect("the request passes again");
        proxy.set(Mode::Refuse).await;
        let denied = connect(&proxy).await.map(drop);
        assert!(denied.is_err_and(|why| why.is_connection_refusal()));
        let closed: RedisResult<i64> = incr().query_async(&mut open).await;
        assert!(closed.is_err());

        proxy.set(Mode::Pass).await;
        let mut back = connect(&proxy).await.expect("the request passes again");
        let answer: RedisResult<i64> = incr().query_async(&mut back).await;
        assert_eq!(answer.expect("an answer"), 1);
    })
    .await;
}
