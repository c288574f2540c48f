//! A way between companion and gateway that can be held up, cut and closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the way does with what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// Nothing passes, nothing is lost, and nobody is told.
    Held,
    /// Whoever dials is refused.
    Closed,
}

#[derive(Debug)]
pub struct Proxy {
    address: std::net::SocketAddr,
    way: watch::Sender<(Way, usize)>,
    connections: Arc<AtomicUsize>,
}

impl Proxy {
    /// A way to `authority`.
    pub async fn to(authority: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (way, seen) = watch::channel((Way::Open, 0));
        let connections = Arc::new(AtomicUsize::new(0));
        let (authority, count) = (authority.to_owned(), connections.clone());
        tokio::spawn(async move {
            loop {
                let Ok((near, _)) = listener.accept().await else { return };
                let (mut way, authority) = (seen.clone(), authority.clone());
                if way.borrow().0 == Way::Closed {
                    continue;
                }
                count.fetch_add(1, Ordering::Relaxed);
                let (_, cuts) = *way.borrow_and_update();
                let passing = way.clone();
                tokio::spawn(async move {
                    let cut =
                        async { while way.borrow_and_update().1 == cuts && way.changed().await.is_ok() {} };
                    tokio::select! {
                        () = pass(near, &authority, passing) => {}
                        () = cut => {}
                    }
                });
            }
        });
        Self { address, way, connections }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.way.send_modify(|(_, cuts)| *cuts += 1);
    }

    /// Nothing passes any more, and nobody is told.
    pub fn hold(&self) {
        self.way.send_modify(|(way, _)| *way = Way::Held);
    }

    /// Cuts every connection and refuses further ones.
    pub fn close(&self) {
        self.way.send_modify(|(way, cuts)| {
            *way = Way::Closed;
            *cuts += 1;
        });
    }

    /// Everything passes again.
    pub fn open(&self) {
        self.way.send_modify(|(way, _)| *way = Way::Open);
    }
}

async fn pass(near: TcpStream, authority: &str, way: watch::Receiver<(Way, usize)>) {
    let Ok(far) = TcpStream::connect(authority).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::select! {
        () = one_way(near_in, far_out, way.clone()) => {}
        () = one_way(far_in, near_out, way) => {}
    }
}

async fn one_way(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut way: watch::Receiver<(Way, usize)>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
        while way.borrow_and_update().0 == Way::Held {
            if way.changed().await.is_err() {
                return;
            }
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
