//! A request and the redirects after it.

use hyper::{Method, StatusCode};

use super::client::{self, Asked, Failure, NamedBy, Response};
use super::url::Url;
use crate::tools::definition::FrontTerms;

/// As browsers' 20, for programs that have no patience.
const REDIRECTS_MAX: usize = 10;
/// What is said to one server and no other.
const PRIVATE_HEADERS: [&str; 5] =
    ["authorization", "cookie", "proxy-authorization", "x-goog-api-key", "x-subscription-token"];

/// From the first request to the last.
pub(in crate::tools) struct Journey {
    /// What was asked before the last.
    pub redirects: Vec<String>,
    /// What was asked last.
    pub at: String,
}

impl Journey {
    pub fn new(url: &str) -> Self {
        Self { redirects: Vec::new(), at: url.to_owned() }
    }

    /// Asks `first` for what `asked` says, and with `follow` whatever its replies lead to. What `by` may reach is meant for
    /// `first`'s own place: wherever else a redirect leads is a caller's wish like any other.
    pub async fn go(
        &mut self,
        terms: &FrontTerms,
        first: Url,
        by: NamedBy,
        mut asked: Asked,
        follow: bool,
    ) -> Result<Response, Failure> {
        let mut url = first.clone();
        loop {
            self.at = url.to_string();
            let by = if url.is_same_place(&first) { by } else { NamedBy::Caller };
            let response = client::ask(terms, &url, by, asked.clone()).await?;
            let Some(target) = response.target().filter(|_| follow) else {
                return Ok(response);
            };
            if self.redirects.len() == REDIRECTS_MAX {
                return Err(Failure::too_many_redirects(REDIRECTS_MAX));
            }
            let next = url.join(&target).map_err(Failure::redirect)?;
            if !next.is_same_place(&url) {
                PRIVATE_HEADERS.iter().for_each(|name| drop(asked.headers.remove(*name)));
            }
            // RFC 9110, 15.4: 303 is always asked for with GET, 301 and 302 are where they answer a POST.
            let becomes_get = match response.status {
                StatusCode::SEE_OTHER => asked.method != Method::HEAD,
                StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => asked.method == Method::POST,
                _ => false,
            };
            if becomes_get {
                asked.method = Method::GET;
                asked.body = None;
                asked.headers.remove("content-type");
            }
            self.redirects.push(std::mem::replace(&mut url, next).to_string());
        }
    }
}
