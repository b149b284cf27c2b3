//! One request: names resolved, every address decided about, the connection made to one of those, the reply read to its bound.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, HOST, HeaderMap, HeaderValue, LOCATION, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::url::Url;
use crate::spec::{EgressDenial, capped};
use crate::tools::aside::off_thread;
use crate::tools::definition::FrontTerms;
use crate::tools::finish::ToolError;

/// Of one address; the next may answer at once.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;
const REPLY_HEADERS_MAX: usize = 128;
const REPLY_HEADER_BYTES_MAX: usize = 64 * 1024;
/// No reply came.
#[derive(Debug)]
pub(in crate::tools) struct Failure {
    code: &'static str,
    message: String,
    rule: Option<String>,
}

impl Failure {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), rule: None }
    }

    pub(in crate::tools) fn code(&self) -> &'static str {
        self.code
    }

    pub(in crate::tools) fn rule(&self) -> Option<&str> {
        self.rule.as_deref()
    }

    /// For whoever sent the request; it may name the place's address.
    pub(in crate::tools) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn url(message: &'static str) -> Self {
        Self::new("bad_url", format!("the URL {message}"))
    }

    pub(super) fn redirect(message: &'static str) -> Self {
        Self::new("bad_redirect", format!("the server redirects to what {message}"))
    }

    pub(super) fn too_many_redirects(most: usize) -> Self {
        Self::new("too_many_redirects", format!("the server redirected more than {most} times"))
    }

    pub(super) fn requests_used_up(used: u64) -> Self {
        let message = format!("the call may make no more than {used} requests (max_network_requests)");
        Self { rule: Some("egress/requests".into()), ..Self::new("egress_denied", message) }
    }
}

impl From<EgressDenial> for Failure {
    fn from(denial: EgressDenial) -> Self {
        Self { rule: Some(denial.rule()), ..Self::new("egress_denied", denial.to_string()) }
    }
}

impl From<Failure> for ToolError {
    fn from(failure: Failure) -> Self {
        let error = ToolError::new(failure.code, capped(&failure.message, 500));
        Self { rule: failure.rule, ..error }
    }
}

#[derive(Debug)]
pub(in crate::tools) struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub truncated: bool,
}

impl Response {
    /// Where it says that the answer is.
    pub(super) fn target(&self) -> Option<String> {
        let redirects = matches!(self.status.as_u16(), 301 | 302 | 303 | 307 | 308);
        let location = self.headers.get(LOCATION).filter(|_| redirects)?;
        location.to_str().ok().map(str::to_owned)
    }
}

/// Who says that a place is to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tools) enum NamedBy {
    /// Or a server, by a redirect.
    Caller,
    /// In the settings.
    Operator,
}

/// What is asked.
#[derive(Clone)]
pub(in crate::tools) struct Asked {
    pub method: Method,
    pub headers: HeaderMap,
    pub body: Option<Vec<u8>>,
    /// Bytes of the reply's body that are kept.
    pub most: usize,
}

/// Asks `url` for what `asked` says, once that is decided to be a place that may be reached. Dropping the future closes the
/// connection.
pub(super) async fn ask(terms: &FrontTerms, url: &Url, by: NamedBy, asked: Asked) -> Result<Response, Failure> {
    let most = terms.network_requests_max.map_or(u64::MAX, u64::from);
    let made = terms.network_requests.load(Ordering::Relaxed);
    if made >= most {
        return Err(Failure::requests_used_up(made));
    }
    let places = places(terms, url, by).await.inspect_err(|failure| {
        tracing::info!(host = %capped(&url.host, 100), port = url.port, rule = failure.rule, "request refused");
    })?;
    // From here on something of it may be seen outside. Others of the same call may have been as far.
    let one_more = |made| (made < most).then_some(made + 1);
    terms
        .network_requests
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
        .map_err(Failure::requests_used_up)?;
    let stream = connect(&places).await?;
    tracing::debug!(host = %capped(&url.host, 100), port = url.port, "request");
    if url.https {
        let stream = secured(stream, url).await?;
        exchange(stream, url, asked).await
    } else {
        exchange(stream, url, asked).await
    }
}

/// What `url` may be had from. One address that may not be reached refuses the whole name: it is not for the public.
async fn places(terms: &FrontTerms, url: &Url, by: NamedBy) -> Result<Vec<SocketAddr>, Failure> {
    let egress = &terms.config.egress;
    let addresses: Vec<IpAddr> = match url.address() {
        Some(address) => {
            if by == NamedBy::Caller {
                egress.literal(address, url.port)?;
            }
            vec![address]
        }
        None => {
            if by == NamedBy::Caller || !egress.enabled {
                egress.name(&url.host)?;
            }
            looked_up(terms, url).await?
        }
    };
    if addresses.is_empty() {
        return Err(Failure::new("resolve_failed", format!("{} has no address", url.host)));
    }
    for address in &addresses {
        match by {
            NamedBy::Caller => egress.address(*address, url.port),
            NamedBy::Operator => egress.configured(*address, url.port),
        }?;
    }
    Ok(addresses.into_iter().take(ADDRESSES_MAX).map(|address| SocketAddr::new(address, url.port)).collect())
}

async fn looked_up(terms: &FrontTerms, url: &Url) -> Result<Vec<IpAddr>, Failure> {
    let failed = |why: String| Failure::new("resolve_failed", format!("{}: {why}", url.host));
    let room =
        terms.lookups.enter(&terms.principal, 1).map_err(|_| failed("too many names are looked up now".into()))?;
    let place = (url.host.clone(), url.port);
    // Nobody can end it: it keeps its thread, and its room, also when nobody waits for it any more.
    let look = move || {
        let _room = room;
        place.to_socket_addrs().map(|all| all.map(|place| place.ip()).collect::<Vec<_>>())
    };
    match off_thread(look).await {
        Some(found) => found.map_err(|e| failed(format!("has no address: {e}"))),
        None => Err(failed("was not looked up".into())),
    }
}

async fn connect(places: &[SocketAddr]) -> Result<TcpStream, Failure> {
    let mut reason = None;
    for place in places {
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        match tokio::time::timeout(CONNECT_WAIT, TcpStream::connect(place)).await.unwrap_or_else(|_| Err(late())) {
            Ok(stream) => return Ok(stream),
            Err(error) => reason = Some((place, error)),
        }
    }
    let message = reason.map_or_else(String::new, |(place, error)| format!("{place}: {error}"));
    Err(Failure::new("connect_failed", message))
}

/// The host's own certificate authorities, read once.
fn connector() -> Result<&'static TlsConnector, Failure> {
    static CONNECTOR: OnceLock<Option<TlsConnector>> = OnceLock::new();
    let made = CONNECTOR.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            tracing::warn!(errors = ?found.errors, "no certificate authorities were found: https can not be used");
            return None;
        }
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Some(TlsConnector::from(Arc::new(config)))
    });
    made.as_ref().ok_or_else(|| {
        Failure::new("tls_failed", "the host has no certificate authorities (Debian: the package ca-certificates)")
    })
}

async fn secured(stream: TcpStream, url: &Url) -> Result<impl AsyncRead + AsyncWrite + Unpin + use<>, Failure> {
    let name = ServerName::try_from(url.host.clone())
        .map_err(|_| Failure::new("tls_failed", format!("{} can have no certificate", url.host)))?;
    connector()?.connect(name, stream).await.map_err(|e| Failure::new("tls_failed", format!("{}: {e}", url.host)))
}

async fn exchange<S>(stream: S, url: &Url, asked: Asked) -> Result<Response, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |e: hyper::Error| Failure::new("bad_response", format!("{}: {}", url.host, chain(&e)));
    let mut builder = http1::Builder::new();
    builder.max_headers(REPLY_HEADERS_MAX).max_buf_size(REPLY_HEADER_BYTES_MAX);
    let (mut sender, connection) = builder.handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.map_err(failed)?;
    let most = asked.most;
    let request = request(url, asked)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let (head, mut incoming) = response.into_parts();
        // The bound of hyper's buffer is met only where a head does not come at once.
        if head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>()
            > REPLY_HEADER_BYTES_MAX
        {
            return Err(Failure::new("bad_response", format!("{}: the reply has too large headers", url.host)));
        }
        let mut body = Vec::new();
        let mut truncated = false;
        while let Some(frame) = incoming.frame().await {
            let Ok(data) = frame.map_err(failed)?.into_data() else { continue };
            let room = most - body.len();
            body.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                truncated = true;
                break;
            }
        }
        Ok(Response { status: head.status, headers: head.headers, body, truncated })
    };
    // In this very task: nothing of it is left when the caller goes. What ends the connection ends the exchange, too.
    let mut connection = std::pin::pin!(connection);
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        result = &mut exchange => result,
        _ended = &mut connection => exchange.await,
    }
}

fn request(url: &Url, asked: Asked) -> Result<Request<Full<Bytes>>, Failure> {
    let Asked { method, headers, body, .. } = asked;
    let wrong = || Failure::url("can not be asked for");
    let mut request = Request::new(Full::new(Bytes::from(body.unwrap_or_default())));
    *request.method_mut() = method;
    *request.uri_mut() = url.path_and_query().parse().map_err(|_| wrong())?;
    let own = request.headers_mut();
    own.insert(HOST, HeaderValue::from_str(&url.authority()).map_err(|_| wrong())?);
    own.insert(USER_AGENT, HeaderValue::from_static(concat!("sandkeep/", env!("CARGO_PKG_VERSION"))));
    own.insert(ACCEPT, HeaderValue::from_static("*/*"));
    // Nothing is unpacked here, so that a small reply is never a large one.
    own.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    own.extend(headers);
    Ok(request)
}

/// An error with its causes, which hyper's own text leaves out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += ": ";
        text += &cause.to_string();
        source = cause.source();
    }
    text
}
