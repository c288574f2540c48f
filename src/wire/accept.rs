//! The `Accept` header, as far as MCP needs it (RFC 9110 section 12.5.1).

use http::HeaderMap;
use http::header::ACCEPT;

/// What a caller takes as an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepts {
    /// `application/json`
    pub json: bool,
    /// `text/event-stream`
    pub events: bool,
}

/// What a request accepts. A missing header accepts everything (RFC 9110 section 12.5.1).
#[must_use]
pub fn accepts(headers: &HeaderMap) -> Accepts {
    let mut found = Accepts { json: false, events: false };
    let mut any = false;
    for value in headers.get_all(ACCEPT) {
        any = true;
        for range in value.to_str().unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let essence = parts.next().unwrap_or_default();
            let refused = parts.any(|part| part.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0_f32)));
            if refused {
                continue;
            }
            let is = |kinds: [&str; 3]| kinds.iter().any(|kind| essence.eq_ignore_ascii_case(kind));
            found.json |= is(["application/json", "application/*", "*/*"]);
            found.events |= is(["text/event-stream", "text/*", "*/*"]);
        }
    }
    if any { found } else { Accepts { json: true, events: true } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_is_read_as_http_says() {
        let check = |value: &str, json: bool, events: bool| {
            let headers = [(ACCEPT, value.parse().unwrap())].into_iter().collect();
            let got = accepts(&headers);
            assert_eq!(got, Accepts { json, events }, "{value}");
        };
        check("application/json, text/event-stream", true, true);
        check("application/json", true, false);
        check("text/event-stream", false, true);
        check("*/*", true, true);
        check("Application/JSON;q=0.5, text/html", true, false);
        check("application/json;q=0, text/*", false, true);
        check("text/html", false, false);
    }
}
