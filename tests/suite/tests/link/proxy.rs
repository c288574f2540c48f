//! A way between companion and gateway that can be held up, cut and closed, and that can keep back single dials.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc, watch};

/// What the way does with what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// Nothing passes, nothing is lost, and nobody is told.
    Held,
    /// Whoever dials is refused.
    Closed,
    /// What a companion says first is kept back: [`Proxy::dial`].
    Kept,
    /// Plain HTTP passes. Who asks for a WebSocket is never answered.
    Swallowed,
    /// Plain HTTP passes. Who asks for a WebSocket is told that it is one, and hears nothing of it.
    Mute,
}

#[derive(Debug)]
pub struct Proxy {
    address: std::net::SocketAddr,
    way: watch::Sender<(Way, usize)>,
    connections: Arc<AtomicUsize>,
    dials: Mutex<mpsc::UnboundedReceiver<Dial>>,
}

/// A companion's dial, whose hello is kept back.
#[derive(Debug)]
pub struct Dial {
    near: Option<TcpStream>,
    far: TcpStream,
    hello: Vec<u8>,
    websocket: bool,
    way: watch::Receiver<(Way, usize)>,
}

impl Dial {
    /// The companion loses the connection; the gateway is not told.
    pub fn lose(&mut self) {
        self.near = None;
    }

    /// The hello arrives, and what comes after it passes as long as the way is open. The future resolves when the gateway has
    /// ended the connection, or all that it says on it.
    pub async fn arrive(mut self) -> impl Future<Output = ()> {
        // A gateway waits for a hello only so long.
        let _ = self.far.write_all(&self.hello).await;
        let passing = tokio::spawn(async move {
            match self.near {
                Some(near) => between(near, self.far, self.way).await,
                None => {
                    let (mut said, mut buffer) = (Vec::new(), [0; 1024]);
                    // The connection's end, that of a body in chunks (RFC 9112 section 7.1), or a WebSocket's close frame, behind
                    // which nothing may be said (RFC 6455 section 5.5.1): a gateway may wait for what is answered to it.
                    while !(said.ends_with(b"\r\n0\r\n\r\n") || self.websocket && closes(&said))
                        && let Ok(length @ 1..) = self.far.read(&mut buffer).await
                    {
                        said.extend_from_slice(&buffer[..length]);
                    }
                }
            }
        });
        async move { passing.await.unwrap() }
    }
}

impl Proxy {
    /// A way to `authority`.
    pub async fn to(authority: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (way, seen) = watch::channel((Way::Open, 0));
        let connections = Arc::new(AtomicUsize::new(0));
        let (authority, count) = (authority.to_owned(), connections.clone());
        let (kept, dials) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let Ok((near, _)) = listener.accept().await else { return };
                let (mut way, authority) = (seen.clone(), authority.clone());
                if way.borrow().0 == Way::Closed {
                    continue;
                }
                count.fetch_add(1, Ordering::Relaxed);
                let (now, cuts) = *way.borrow_and_update();
                if now == Way::Kept {
                    let (kept, way) = (kept.clone(), way.clone());
                    tokio::spawn(async move {
                        if let Some(dial) = keep(near, &authority, way).await {
                            let _ = kept.send(dial);
                        }
                    });
                    continue;
                }
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
        Self { address, way, connections, dials: Mutex::new(dials) }
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

    /// Cuts every connection; what companions say first on further ones is kept back.
    pub fn keep(&self) {
        self.way.send_modify(|(way, cuts)| {
            *way = Way::Kept;
            *cuts += 1;
        });
    }

    /// Only plain HTTP passes on further connections; WebSockets are swallowed, or mute from their beginning on.
    pub fn swallow(&self, mute: bool) {
        self.way.send_modify(|(way, _)| *way = if mute { Way::Mute } else { Way::Swallowed });
    }

    /// The next dial that is kept back.
    pub async fn dial(&self) -> Dial {
        let dial = async { self.dials.lock().await.recv().await.unwrap() };
        tokio::time::timeout(Duration::from_secs(30), dial).await.expect("a companion dials")
    }

    /// Everything passes again.
    pub fn open(&self) {
        self.way.send_modify(|(way, _)| *way = Way::Open);
    }
}

async fn pass(mut near: TcpStream, authority: &str, way: watch::Receiver<(Way, usize)>) {
    let Ok(mut far) = TcpStream::connect(authority).await else { return };
    let now = way.borrow().0;
    if matches!(now, Way::Swallowed | Way::Mute) {
        let Some(first) = head(&mut near).await else { return };
        let websocket = String::from_utf8_lossy(&first).to_ascii_lowercase().contains("upgrade: websocket");
        if websocket && now == Way::Swallowed {
            while near.read(&mut [0; 1024]).await.is_ok_and(|length| length > 0) {}
            return;
        }
        if far.write_all(&first).await.is_err() {
            return;
        }
        if websocket {
            let Some(answer) = head(&mut far).await else { return };
            let _ = near.write_all(&answer).await;
            while near.read(&mut [0; 1024]).await.is_ok_and(|length| length > 0) {}
            return;
        }
    }
    between(near, far, way).await;
}

/// Takes what a companion says up to its hello, and keeps that.
async fn keep(mut near: TcpStream, authority: &str, way: watch::Receiver<(Way, usize)>) -> Option<Dial> {
    let mut far = TcpStream::connect(authority).await.ok()?;
    let mut hello = head(&mut near).await?;
    let text = String::from_utf8_lossy(&hello).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    if let Some(length) = length {
        more(&mut near, &mut hello, length).await?;
    } else {
        // A WebSocket, which begins behind the gateway's answer with a masked frame (RFC 6455 section 5.2).
        far.write_all(&hello).await.ok()?;
        near.write_all(&head(&mut far).await?).await.ok()?;
        hello.clear();
        more(&mut near, &mut hello, 4).await?;
        let rest = match hello[1] & 0x7f {
            126 => usize::from(u16::from_be_bytes([hello[2], hello[3]])) + 4,
            length => usize::from(length) + 2,
        };
        more(&mut near, &mut hello, rest).await?;
    }
    Some(Dial { near: Some(near), far, hello, websocket: length.is_none(), way })
}

/// Whether these frames, which are a gateway's and so not masked (RFC 6455 section 5.2), have come to the close.
fn closes(mut frames: &[u8]) -> bool {
    loop {
        let (first, length) = match frames {
            [first, 126, high, low, ..] => (first, 4 + usize::from(u16::from_be_bytes([*high, *low]))),
            [first, length, ..] if *length < 126 => (first, 2 + usize::from(*length)),
            _ => return false,
        };
        if first & 0xf == 0x8 {
            return true;
        }
        let Some(rest) = frames.get(length..) else { return false };
        frames = rest;
    }
}

/// Reads the head of an HTTP message.
async fn head(from: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        more(from, &mut head, 1).await?;
    }
    Some(head)
}

async fn more(from: &mut TcpStream, to: &mut Vec<u8>, length: usize) -> Option<()> {
    let start = to.len();
    to.resize(start + length, 0);
    from.read_exact(&mut to[start..]).await.ok().map(|_| ())
}

async fn between(near: TcpStream, far: TcpStream, way: watch::Receiver<(Way, usize)>) {
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
