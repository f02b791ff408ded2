//! The search for the client's address in a request.

use std::net::IpAddr;

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};

use super::element::Element;
use super::forwarded::{self, ForwardedValue};
use super::proxies::{Trust, TrustedProxies};
use super::{AddressSource, ClientIp, OnMalformed};
use crate::key::text::trim;
use crate::key::{KeyError, Networks, nat64};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

impl ClientIp {
    pub(super) fn read(
        &self,
        peer: Option<IpAddr>,
        headers: &HeaderMap,
    ) -> Result<IpAddr, KeyError> {
        let peer = peer.map(|ip| self.decoded(ip));
        match &self.source {
            AddressSource::Peer => peer.ok_or(KeyError::MissingPeer),
            AddressSource::ForwardedFor(proxies) => {
                let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
                let elements = lines.flat_map(|line| {
                    let elements = line.as_bytes().rsplit(|letter| *letter == b',').map(trim);
                    elements.filter(|text| !text.is_empty()).map(Element::parse)
                });
                self.walk(proxies, peer, &X_FORWARDED_FOR, elements)
            }
            AddressSource::Forwarded(proxies) => {
                let lines = headers.get_all(FORWARDED).iter().rev();
                self.walk(
                    proxies,
                    peer,
                    &FORWARDED,
                    lines.flat_map(forwarded_elements),
                )
            }
            AddressSource::Header(name, proxies) => {
                let peer = peer.ok_or(KeyError::MissingPeer)?;
                if !self.trusts(proxies, peer) {
                    return Ok(peer);
                }
                let mut lines = headers.get_all(name).iter();
                match (lines.next().map(|line| trim(line.as_bytes())), lines.next()) {
                    (None | Some([]), None) => Ok(peer),
                    (Some(text), None) => match Element::parse(text) {
                        Element::Address(ip) => Ok(self.decoded(ip)),
                        Element::Hidden | Element::Malformed => self.malformed(name, Some(peer)),
                    },
                    _ => self.malformed(name, Some(peer)),
                }
            }
        }
    }

    /// Walks from the right and stops at the client. Elements further to the left are not parsed.
    fn walk(
        &self,
        proxies: &TrustedProxies,
        peer: Option<IpAddr>,
        name: &HeaderName,
        elements: impl Iterator<Item = Element>,
    ) -> Result<IpAddr, KeyError> {
        let elements = elements.map(|element| match element {
            Element::Address(ip) => Element::Address(self.decoded(ip)),
            other => other,
        });
        match &proxies.0 {
            Trust::Networks(networks) => {
                let mut nearest = peer.ok_or(KeyError::MissingPeer)?;
                if !self.trusts(networks, nearest) {
                    return Ok(nearest);
                }
                for element in elements {
                    match element {
                        Element::Address(ip) if self.trusts(networks, ip) => nearest = ip,
                        Element::Address(ip) => return Ok(ip),
                        Element::Hidden => return Ok(nearest),
                        Element::Malformed => return self.malformed(name, Some(nearest)),
                    }
                }
                Ok(nearest)
            }
            Trust::Hops(0) => peer.ok_or(KeyError::MissingPeer),
            Trust::Hops(hops) => {
                // The connection may have no address: a Unix socket has none.
                let mut nearest = peer;
                for (index, element) in elements.enumerate() {
                    let is_it = index + 1 == *hops;
                    match element {
                        Element::Address(ip) if is_it => return Ok(ip),
                        Element::Hidden if is_it => return or_malformed(nearest, name),
                        Element::Malformed if is_it => return self.malformed(name, nearest),
                        Element::Address(ip) => nearest = Some(ip),
                        Element::Hidden | Element::Malformed => {}
                    }
                }
                Err(KeyError::TooFewHops {
                    header: name.clone(),
                    hops: *hops,
                })
            }
        }
    }

    #[inline]
    fn decoded(&self, ip: IpAddr) -> IpAddr {
        if self.nat64 { nat64::decoded(ip) } else { ip }
    }

    fn trusts(&self, networks: &Networks, ip: IpAddr) -> bool {
        networks.contains_decoded(ip, self.nat64)
    }

    #[cold]
    fn malformed(&self, name: &HeaderName, nearest: Option<IpAddr>) -> Result<IpAddr, KeyError> {
        match self.on_malformed {
            OnMalformed::Reject => or_malformed(None, name),
            OnMalformed::Nearest => or_malformed(nearest, name),
        }
    }
}

/// Returns the nearest address. Without one the request is rejected, and never falls into a shared bucket.
fn or_malformed(nearest: Option<IpAddr>, name: &HeaderName) -> Result<IpAddr, KeyError> {
    nearest.ok_or_else(|| KeyError::MalformedAddress(name.clone()))
}

/// Returns the elements of a line of `Forwarded`, from the right. A line with a syntax error is one malformed element.
fn forwarded_elements(line: &HeaderValue) -> impl Iterator<Item = Element> {
    let (elements, broken) = match forwarded::elements(line.as_bytes()) {
        Some(elements) => (elements, None),
        None => (forwarded::Elements::new(), Some(Element::Malformed)),
    };
    let elements = elements.into_iter().rev();
    elements
        .map(|client| client.map_or(Element::Hidden, ForwardedValue::element))
        .chain(broken)
}
