//! AWS Signature Version 4.
//!
//! Source: docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html.

use hmac::{Hmac, Mac as _};
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderName, HeaderValue, Request};
use sha2::{Digest as _, Sha256};

use crate::platform::Timestamp;

/// Who signs, for what.
#[derive(Clone, Copy)]
pub struct Signer<'a> {
    /// The access key's id.
    pub id: &'a str,
    /// The access key's secret.
    pub secret: &'a str,
    /// The token of a temporary key.
    pub session: Option<&'a str>,
    /// The region.
    pub region: &'a str,
    /// The service.
    pub service: &'a str,
}

impl Signer<'_> {
    /// Adds the headers that sign `request`. Of its headers `content-type` and those of AWS are signed, and `host` as
    /// the URI has it.
    pub fn sign(&self, request: &mut Request<bytes::Bytes>, now: Timestamp) {
        let (date, time) = written(now);
        let put = |request: &mut Request<bytes::Bytes>, name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                request.headers_mut().insert(HeaderName::from_static(name), value);
            }
        };
        put(request, "x-amz-date", &time);
        if let Some(session) = self.session {
            put(request, "x-amz-security-token", session);
        }
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let mut headers: Vec<(String, String)> = request
            .headers()
            .iter()
            .filter(|(name, _)| name.as_str() == "content-type" || name.as_str().starts_with("x-amz-"))
            .map(|(name, value)| {
                (name.as_str().to_owned(), value.to_str().unwrap_or_default().trim().to_owned())
            })
            .chain([(HOST.as_str().to_owned(), host)])
            .collect();
        headers.sort();
        let names = headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
        let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let mut query: Vec<&str> =
            request.uri().query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).collect();
        query.sort_unstable();
        // All services but S3 sign the path as if what is encoded in it were to be encoded once more.
        let path = encoded(request.uri().path(), true);
        let canonical = format!(
            "{}\n{path}\n{}\n{lines}\n{names}\n{}",
            request.method(),
            query.join("&"),
            hex(&Sha256::digest(request.body()))
        );
        let scope = format!("{date}/{}/{}/aws4_request", self.region, self.service);
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
        let key = mac(format!("AWS4{}", self.secret).as_bytes(), date.as_bytes());
        let key = [self.region, self.service, "aws4_request"]
            .iter()
            .fold(key, |key, part| mac(&key, part.as_bytes()));
        let signature = hex(&mac(&key, text.as_bytes()));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            self.id
        );
        if let Ok(mut value) = HeaderValue::from_str(&authorization) {
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
    }
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    // HMAC takes keys of any length: this cannot fail.
    Hmac::<Sha256>::new_from_slice(key).map_or_else(
        |_| Vec::new(),
        |mut mac| {
            mac.update(text);
            mac.finalize().into_bytes().to_vec()
        },
    )
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Everything but unreserved characters (RFC 3986 section 2.3) as `%XX`; slashes stay where they part a path.
#[must_use]
pub fn encoded(text: &str, path: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || path && byte == b'/' {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for nibble in [byte >> 4, byte & 15] {
                out.extend(char::from_digit(u32::from(nibble), 16).map(|digit| digit.to_ascii_uppercase()));
            }
        }
    }
    out
}

/// A time as `YYYYMMDD` and `YYYYMMDDTHHMMSSZ`.
fn written(now: Timestamp) -> (String, String) {
    let seconds = now.0 / 1000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant, "chrono-compatible low-level date algorithms", civil_from_days.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let date = format!("{year:04}{month:02}{day:02}");
    let time = format!("{date}T{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60);
    (date, time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    /// 2015-08-30T12:36:00Z, as in AWS's own test suite.
    const THEN: Timestamp = Timestamp(1_440_938_160_000);

    fn check(request: Request<Bytes>, signed: &str, signature: &str) {
        let signer = Signer {
            id: "AKIDEXAMPLE",
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            session: None,
            region: "us-east-1",
            service: "service",
        };
        let mut request = request;
        signer.sign(&mut request, THEN);
        let expect = format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders={signed}, Signature={signature}"
        );
        assert_eq!(request.headers()["authorization"], expect);
        assert_eq!(request.headers()["x-amz-date"], "20150830T123600Z");
    }

    #[test]
    fn requests_of_the_published_suite_are_signed_as_published() {
        let get = |uri: &str| Request::get(uri).body(Bytes::new()).unwrap();
        check(
            get("https://example.amazonaws.com/"),
            "host;x-amz-date",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        );
        check(
            get("https://example.amazonaws.com/?Param2=value2&Param1=value1"),
            "host;x-amz-date",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        );
        let post = Request::post("https://example.amazonaws.com/").body(Bytes::new()).unwrap();
        check(post, "host;x-amz-date", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b");
    }

    #[test]
    fn dates_are_written_through_leap_years() {
        let check = |seconds: u64, expect: &str| assert_eq!(written(Timestamp(seconds * 1000)).1, expect);
        check(0, "19700101T000000Z");
        check(951_782_400, "20000229T000000Z");
        check(1_709_251_199, "20240229T235959Z");
        check(1_709_251_200, "20240301T000000Z");
        check(4_102_444_799, "20991231T235959Z");
    }

    #[test]
    fn model_names_are_one_segment_of_the_path() {
        assert_eq!(encoded("us.anthropic.claude:0", false), "us.anthropic.claude%3A0");
        assert_eq!(encoded("arn:aws:bedrock:x/y", false), "arn%3Aaws%3Abedrock%3Ax%2Fy");
        assert_eq!(encoded("/model/a%3A0/converse", true), "/model/a%253A0/converse");
    }
}
