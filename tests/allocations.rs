//! Heap allocations of a request: none, unless its response carries information.
//!
//! Each thread counts its own allocations, so concurrent tests do not disturb the count.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use axum::body::Body;
use http::header::{HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use tower::{Layer, Service};
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::key::{KeyExtractor, Networks, PeerAddr, TrustedProxies};
use tower_sluice::response::{HeaderFormat, Reset};
use tower_sluice::{
    Charge, ClientIp, MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer, RouteCosts,
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // A thread that ends may allocate after its counter is gone.
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: every method calls the system allocator with unchanged arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

/// A service with an empty body that answers at once.
fn inner()
-> impl Service<Request<()>, Response = Response<Body>, Error = Infallible, Future = Answer> + Clone
{
    tower::service_fn(|_: Request<()>| ready(Ok(Response::new(Body::empty()))))
}

type Answer = Ready<Result<Response<Body>, Infallible>>;

fn one_quota(limit: u64) -> Policy {
    Policy::new("one", Quota::per_hour(limit))
}

fn two_quotas(limit: u64) -> Policy {
    let day = std::time::Duration::from_secs(86_400);
    Policy::new("two", Quota::per_hour(limit)).and("daily", Quota::fixed_window(limit, day))
}

type Limit = RateLimitLayer<PeerIp, MemoryBackend<ManualClock>>;

fn limit(policy: Policy) -> Limit {
    let clock = ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000));
    let backend = MemoryBackend::builder().clock(clock).build();
    RateLimitLayer::new(policy, PeerIp::new(), backend)
}

fn silent(policy: Policy) -> Limit {
    limit(policy).headers(HeaderFormat::None).extensions(false)
}

/// The longest address.
fn request() -> Request<()> {
    let peer: SocketAddr = "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535"
        .parse()
        .expect("an address");
    let request = Request::builder().extension(PeerAddr(peer));
    request.body(()).expect("a valid head")
}

/// The allocations of one request, from `poll_ready` until its response is dropped: of 100 requests after as many to
/// warm up.
fn allocations<S, B>(mut service: S, status: StatusCode) -> usize
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
{
    let requests: Vec<_> = (0..200).map(|_| request()).collect();
    let mut counts = Vec::with_capacity(requests.len());
    for request in requests {
        let before = ALLOCATIONS.get();
        let mut context = Context::from_waker(Waker::noop());
        assert!(service.poll_ready(&mut context).is_ready());
        let Poll::Ready(Ok(response)) = pin!(service.call(request)).poll(&mut context) else {
            panic!("no answer at once");
        };
        let seen = response.status();
        drop(response);
        counts.push((seen, ALLOCATIONS.get() - before));
    }
    let counts = &counts[100..];
    assert_eq!(counts[0].0, status);
    assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
    counts[0].1
}

const ALLOWED: u64 = 1_000;
const USED_UP: u64 = 10;

/// A minimal layer that changes requests and responses like this.
fn by_hand(
    request: impl Fn(&mut Request<()>) + Copy,
    response: impl Fn(&mut Response<Body>) + Copy,
    status: StatusCode,
) -> usize {
    let service = tower::ServiceBuilder::new()
        .map_request(move |mut passing: Request<()>| {
            request(&mut passing);
            passing
        })
        .map_response(move |mut passing: Response<Body>| {
            response(&mut passing);
            *passing.status_mut() = status;
            passing
        })
        .service(inner());
    allocations(service, status)
}

/// Writes the two fields: one value is constant, and the other is built anew.
fn write_fields(response: &mut Response<Body>, policy: &HeaderValue, limit: &str) {
    let headers = response.headers_mut();
    headers.append(HeaderName::from_static("ratelimit-policy"), policy.clone());
    let limit = HeaderValue::from_bytes(limit.as_bytes()).expect("a value");
    headers.append(HeaderName::from_static("ratelimit"), limit);
}

/// A value that was cloned before: the first clone allocates.
fn kept(value: &str) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).expect("a value")
}

#[test]
fn allocation_counter_counts() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(7)));
    assert_eq!(ALLOCATIONS.get() - before, 1);
    assert_eq!(allocations(inner(), StatusCode::OK), 0);
}

#[test]
fn allowed_request_allocates_nothing() {
    let shadow = one_quota(USED_UP).shadow();
    for policy in [one_quota(ALLOWED), two_quotas(ALLOWED), shadow] {
        let silent = silent(policy.clone()).layer(inner());
        assert_eq!(allocations(silent, StatusCode::OK), 0, "{policy:?}");
        let by_the_system_clock = RateLimitLayer::new(policy, PeerIp::new(), MemoryBackend::new())
            .headers(HeaderFormat::None)
            .extensions(false)
            .layer(inner());
        assert_eq!(allocations(by_the_system_clock, StatusCode::OK), 0);
    }
}

#[test]
fn route_costs_allocate_nothing() {
    let costs = RouteCosts::new().route("/export/{id}", 5);
    let method = http::Method::from_bytes(b"A-METHOD-OF-ITS-OWN").expect("a method");
    let costs = costs.method(method, "/", 5).prefix("/", 2);
    let limited = silent(one_quota(ALLOWED)).cost(costs.clone());
    assert_eq!(allocations(limited.layer(inner()), StatusCode::OK), 0);
    assert_eq!(costs.unmatched().len(), 2);
}

#[test]
fn finding_the_client_behind_proxies_allocates_nothing() {
    let proxies = || Networks::new(["10.0.0.0/8", "fd00::/8"]);
    let single = HeaderName::from_static("x-real-ip");
    let request = Request::builder()
        .extension(PeerAddr(([10, 0, 0, 1], 4711).into()))
        .header("x-forwarded-for", "1.2.3.4, [2001:db8::7]:4711, 10.0.0.3")
        .header("x-forwarded-for", "10.0.0.2")
        .header("forwarded", "for=1.2.3.4;proto=https, for=\"[2001:db8::7]\";by=_x;proto=https;host=\"a\", for=10.0.0.2")
        .header(&single, "2001:db8::7");
    let request = request.body(()).expect("a valid head");
    let client = ClientIp::new();
    for client in [
        client.clone(),
        client.clone().ipv4_prefix(24),
        client.clone().forwarded_for(proxies()),
        client.clone().forwarded_for(TrustedProxies::hops(3)),
        client.clone().forwarded(proxies()),
        client.clone().header(single, proxies()).ipv6_prefix(128),
        client
            .allow_list(Networks::new(["192.0.2.0/24"]))
            .deny_list(Networks::new(["198.51.100.0/24"])),
    ] {
        let before = ALLOCATIONS.get();
        let key = client.key(&request);
        assert_eq!(ALLOCATIONS.get() - before, 0, "{client:?}");
        assert!(key.is_ok(), "{client:?}");
    }
}

#[test]
fn header_fields_allocate_like_a_minimal_layer() {
    let policy = kept("\"one\";q=1000;w=3600");
    let fields = |response: &mut Response<Body>| write_fields(response, &policy, "\"one\";r=899");
    let by_hand = by_hand(|_| {}, fields, StatusCode::OK);
    // The two tables of the header map, and one value. The value of `RateLimit-Policy` is shared.
    assert_eq!(by_hand, 3);
    for policy in [one_quota(ALLOWED), two_quotas(ALLOWED)] {
        let limited = limit(policy).extensions(false).layer(inner());
        assert_eq!(allocations(limited, StatusCode::OK), by_hand);
    }
}

#[test]
fn other_formats_allocate_only_their_values() {
    let policy = kept("1000;w=3600");
    let x = |response: &mut Response<Body>| {
        let headers = response.headers_mut();
        headers.insert(HeaderName::from_static("x-ratelimit-limit"), kept("1000"));
        headers.insert(
            HeaderName::from_static("x-ratelimit-remaining"),
            kept("899"),
        );
        headers.insert(HeaderName::from_static("x-ratelimit-reset"), kept("360"));
    };
    let x_by_hand = by_hand(|_| {}, x, StatusCode::OK);
    let seventh = |response: &mut Response<Body>| write_fields(response, &policy, "limit=1000");
    let seventh_by_hand = by_hand(|_| {}, seventh, StatusCode::OK);
    let format = |format| limit(one_quota(ALLOWED)).extensions(false).headers(format);
    for reset in [Reset::Epoch, Reset::Delta] {
        let limited = format(HeaderFormat::XRateLimit { reset }).layer(inner());
        assert_eq!(allocations(limited, StatusCode::OK), x_by_hand);
    }
    let limited = format(HeaderFormat::Draft07).layer(inner());
    assert_eq!(allocations(limited, StatusCode::OK), seventh_by_hand);
}

#[test]
fn extensions_allocate_like_a_minimal_layer() {
    #[derive(Clone)]
    struct Left(#[allow(dead_code)] [u64; 8]);
    let by_hand = by_hand(
        |request| {
            request.extensions_mut().insert(Left([7; 8]));
        },
        |response| {
            response.extensions_mut().insert(Left([7; 8]));
        },
        StatusCode::OK,
    );
    // A box in the existing map of the request. In the response the map, its table and a box.
    assert_eq!(by_hand, 4);
    for policy in [one_quota(ALLOWED), two_quotas(ALLOWED)] {
        let limited = limit(policy.clone())
            .headers(HeaderFormat::None)
            .response_extensions(true);
        assert_eq!(allocations(limited.layer(inner()), StatusCode::OK), by_hand);
        let limited = limit(policy).headers(HeaderFormat::None).layer(inner());
        assert_eq!(allocations(limited, StatusCode::OK), 1);
    }
}

/// The needs of the default layer: the fields, and a value in the extensions of the request.
fn default_by_hand() -> usize {
    #[derive(Clone)]
    struct Left(#[allow(dead_code)] [u64; 8]);
    let policy = kept("\"one\";q=1000;w=3600");
    by_hand(
        |request| {
            request.extensions_mut().insert(Left([7; 8]));
        },
        |response| {
            write_fields(response, &policy, "\"one\";r=899");
        },
        StatusCode::OK,
    )
}

#[test]
fn unused_charge_allocates_like_any_extension() {
    assert_eq!(default_by_hand(), 4);
    for policy in [one_quota(ALLOWED), two_quotas(ALLOWED)] {
        let limited = limit(policy.clone()).layer(inner());
        assert_eq!(allocations(limited, StatusCode::OK), default_by_hand());
        // Reading the charge allocates nothing either.
        let looks = tower::service_fn(|request: Request<()>| {
            let charge = request.extensions().get::<Charge>().expect("a charge");
            assert!(charge.estimate().is_some() && charge.decision().is_some());
            assert!(charge.policy().is_some() && charge.waited().is_zero());
            ready(Ok::<_, Infallible>(Response::new(Body::empty())))
        });
        let limited = limit(policy).layer(looks);
        assert_eq!(allocations(limited, StatusCode::OK), default_by_hand());
    }
}

#[test]
fn settling_allocates_at_most_one_handle() {
    let settled = |charge: &Charge| drop(charge.settle(0));
    for policy in [one_quota(ALLOWED), two_quotas(ALLOWED)] {
        let service = tower::service_fn(move |request: Request<()>| {
            settled(request.extensions().get::<Charge>().expect("a charge"));
            ready(Ok::<_, Infallible>(Response::new(Body::empty())))
        });
        let limited = limit(policy.clone()).layer(service);
        assert_eq!(allocations(limited, StatusCode::OK), default_by_hand());
        // Settled by the handler, and by the hook.
        let limited = limit(policy.clone()).on_response(move |_, charge| settled(charge));
        let hooked = allocations(limited.layer(inner()), StatusCode::OK);
        assert_eq!(hooked, default_by_hand() + 1);
        let limited = silent(policy.clone()).on_response(move |_, charge| settled(charge));
        assert_eq!(allocations(limited.layer(inner()), StatusCode::OK), 0);
        let limited = silent(policy).refund_on_disconnect().layer(inner());
        assert_eq!(allocations(limited, StatusCode::OK), REFUNDABLE);
    }
}

/// The second handle to the charge, its place until the service starts, and the path of the first handle.
const REFUNDABLE: usize = 3;

/// It finds the charge, which then has two handles, and stores the second one.
#[test]
fn inner_layer_of_equal_cost_allocates_one_handle() {
    let limited = limit(one_quota(ALLOWED));
    let nested = limited.layer(limited.layer(inner()));
    assert_eq!(allocations(nested, StatusCode::OK), default_by_hand() + 2);
}

#[test]
fn rejection_allocates_only_its_head() {
    let rejected = StatusCode::TOO_MANY_REQUESTS;
    let policy = kept("\"one\";q=10;w=3600");
    let body = bytes::Bytes::from_static(b"{}");
    let head = |response: &mut Response<Body>| {
        let headers = response.headers_mut();
        let problem = HeaderValue::from_static("application/problem+json");
        headers.insert("content-type", problem);
        headers.insert("retry-after", kept("360"));
        headers.insert("cache-control", HeaderValue::from_static("no-store"));
        // A body that does not borrow a constant, as the prepared problem.
        *response.body_mut() = Body::from(body.clone());
    };
    let silently = by_hand(|_| {}, head, rejected);
    let with_fields = |response: &mut Response<Body>| {
        head(response);
        write_fields(response, &policy, "\"one\";r=0;t=360");
    };
    let with_fields = by_hand(|_| {}, with_fields, rejected);

    // The body is built once for a policy of one quota.
    let one = || silent(one_quota(USED_UP)).layer(inner());
    assert_eq!(allocations(one(), rejected), silently);
    let one = limit(one_quota(USED_UP)).extensions(false).layer(inner());
    assert_eq!(allocations(one, rejected), with_fields);

    // With more quotas the body names those that denied, and is built for each rejection.
    let two = silent(two_quotas(USED_UP)).layer(inner());
    assert_eq!(allocations(two, rejected), silently + BODY);
    let two = limit(two_quotas(USED_UP)).extensions(false).layer(inner());
    assert_eq!(allocations(two, rejected), with_fields + BODY);
}

/// The text, at its final length, and its reference count.
const BODY: usize = 2;
