//! A network between the buses of cluster nodes that can isolate one node. Clients still reach it.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use parking_lot::Mutex;

/// The bytes of a packet up to the end of the sender's id, and the length of an id.
const HEAD: usize = 80;
const ID: usize = 40;

/// Proxies in front of the buses of nodes. Each node announces the port of its proxy. A drop closes all links.
#[derive(Debug, Default)]
pub(crate) struct Bus {
    shared: Arc<Shared>,
    ports: Vec<u16>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The ids of nodes, by the ports of their buses.
    ids: Mutex<HashMap<u16, String>>,
    isolated: Mutex<Option<String>>,
    links: Mutex<Vec<Link>>,
    is_closed: AtomicBool,
}

/// A connection of one node to another.
#[derive(Debug)]
struct Link {
    from: String,
    /// The port of the bus.
    to: u16,
    ends: [TcpStream; 2],
}

impl Bus {
    /// The port of a new proxy in front of a bus.
    pub(crate) fn proxy_to(&mut self, port: u16) -> u16 {
        let (listener, own) = loop {
            let own = super::free_port();
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", own)) {
                break (listener, own);
            }
        };
        self.ports.push(own);
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || {
            for connection in listener.incoming() {
                if shared.is_closed.load(SeqCst) {
                    return;
                }
                let shared = Arc::clone(&shared);
                // A failed link closes, and its node connects again.
                thread::spawn(move || shared.forward(connection?, port));
            }
        });
        own
    }

    /// The id of the node with this bus.
    pub(crate) fn name(&self, port: u16, id: String) {
        self.shared.ids.lock().insert(port, id);
    }

    /// Cuts all links from and to this node, until [`heal`](Self::heal).
    pub(crate) fn isolate(&self, id: &str) {
        *self.shared.isolated.lock() = Some(id.to_owned());
        for link in &*self.shared.links.lock() {
            if self.shared.is_cut(&link.from, link.to) {
                close(&link.ends);
            }
        }
    }

    pub(crate) fn heal(&self) {
        *self.shared.isolated.lock() = None;
    }
}

impl Shared {
    fn is_cut(&self, from: &str, to: u16) -> bool {
        let isolated = self.isolated.lock();
        isolated.as_deref().is_some_and(|isolated| {
            isolated == from || self.ids.lock().get(&to).is_some_and(|to| isolated == to)
        })
    }

    /// Forwards a link whose first packet names its node.
    fn forward(&self, mut node: TcpStream, port: u16) -> io::Result<()> {
        let mut head = [0; HEAD];
        node.read_exact(&mut head)?;
        let from = String::from_utf8_lossy(&head[HEAD - ID..]).into_owned();
        let mut bus = TcpStream::connect(("127.0.0.1", port))?;
        {
            // Under this lock a link is either registered when the node is isolated, or not made.
            let mut links = self.links.lock();
            if self.is_cut(&from, port) {
                return Ok(());
            }
            links.retain(|link| link.ends[0].peer_addr().is_ok());
            links.push(Link {
                from,
                to: port,
                ends: [node.try_clone()?, bus.try_clone()?],
            });
        }
        bus.write_all(&head)?;
        let ends = [node.try_clone()?, bus.try_clone()?];
        let back = thread::spawn({
            let (mut bus, mut node) = (bus.try_clone()?, node.try_clone()?);
            move || io::copy(&mut bus, &mut node)
        });
        let forth = io::copy(&mut node, &mut bus);
        close(&ends);
        // Both directions have ended: the copy back fails on a closed link.
        drop(back.join());
        forth.map(drop)
    }
}

fn close(ends: &[TcpStream; 2]) {
    for end in ends {
        // It may be closed already.
        let _ = end.shutdown(Shutdown::Both);
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, SeqCst);
        for link in &*self.shared.links.lock() {
            close(&link.ends);
        }
        for port in &self.ports {
            // Wakes the thread that listens.
            drop(TcpStream::connect(("127.0.0.1", *port)));
        }
    }
}
