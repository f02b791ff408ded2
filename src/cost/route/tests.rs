use super::error::{path_of, prefix_of};
use super::*;

fn cost(costs: &RouteCosts, method: &Method, path: &str) -> u64 {
    let request = Request::builder().method(method).uri(path).body(());
    costs.cost(&request.expect("a valid head")).get(0)
}

fn get(costs: &RouteCosts, path: &str) -> u64 {
    cost(costs, &Method::GET, path)
}

#[test]
fn unlisted_routes_cost_one_or_the_default() {
    assert_eq!(get(&RouteCosts::new(), "/"), 1);
    assert_eq!(get(&RouteCosts::new().otherwise(7), "/"), 7);
    let extended = RouteCosts::new()
        .route("/a", 0)
        .otherwise(Cost::each([2, 9]));
    assert_eq!([get(&extended, "/a"), get(&extended, "/b")], [0, 2]);
    let request = Request::new(());
    assert_eq!(extended.cost(&request), Cost::each([2, 9]));
}

#[test]
fn a_path_is_exact_and_without_its_query() {
    let costs = RouteCosts::new()
        .route("/pkg.Service/Method", 5)
        .route("/", 3);
    let found = [
        "/pkg.Service/Method",
        "/pkg.Service/Method?a=/",
        "http://host/pkg.Service/Method",
        "/pkg.Service/Method/",
        "/pkg.Service/method",
        "/pkg.Service/Metho%64",
        "/",
        "http://host",
        "*",
    ];
    let found = found.map(|path| get(&costs, path));
    assert_eq!(found, [5, 5, 5, 1, 1, 1, 3, 3, 1]);
}

#[test]
fn route_with_a_method_takes_precedence_in_any_order() {
    let one = RouteCosts::new()
        .route("/a", 2)
        .method(Method::POST, "/a", 5);
    let two = RouteCosts::new()
        .method(Method::POST, "/a", 5)
        .route("/a", 2);
    for costs in [one, two] {
        let methods = [Method::GET, Method::POST, Method::HEAD, Method::DELETE];
        let found = methods.map(|method| cost(&costs, &method, "/a"));
        assert_eq!(found, [2, 5, 2, 2]);
    }
}

#[test]
fn head_has_the_cost_of_get_without_an_entry() {
    let costs = RouteCosts::new()
        .route("/a", 2)
        .method(Method::GET, "/a", 50)
        .method(Method::GET, "/b", 50)
        .method(Method::HEAD, "/b", 3)
        .method(Method::HEAD, "/c", 4);
    let head = ["/a", "/b", "/c"].map(|path| cost(&costs, &Method::HEAD, path));
    assert_eq!(head, [50, 3, 4]);
    let get = ["/a", "/b", "/c"].map(|path| get(&costs, path));
    assert_eq!(get, [50, 50, 1]);
}

#[test]
fn path_listed_for_other_methods_does_not_match() {
    let costs = RouteCosts::new()
        .method(Method::POST, "/a/b", 5)
        .prefix("/a", 3);
    let methods = [Method::POST, Method::GET, Method::HEAD];
    let found = methods.map(|method| cost(&costs, &method, "/a/b"));
    assert_eq!(found, [5, 3, 3]);
}

#[test]
fn longest_prefix_in_whole_segments_applies() {
    let costs = RouteCosts::new()
        .prefix("/files", 2)
        .prefix("/files/big/data", 4)
        .prefix("/files/big", 3)
        .prefix("/below/", 5)
        .route("/files", 9);
    let found = [
        "/files",
        "/files/",
        "/files/x",
        "/files?x",
        "/filesystem",
        "/files/bigger",
        "/files/big",
        "/files/big/data/x",
        "/below",
        "/below/",
        "/below/x",
    ];
    let found = found.map(|path| get(&costs, path));
    assert_eq!(found, [9, 2, 2, 9, 1, 2, 3, 4, 1, 5, 5]);
    let costs = costs.prefix("/", 8);
    let found = ["/", "/filesystem", "/files/x", "*"].map(|path| get(&costs, path));
    assert_eq!(found, [8, 8, 2, 1]);
}

#[test]
fn a_prefix_sees_the_path_as_sent() {
    let costs = RouteCosts::new().prefix("/files/big", 9);
    let sent = [
        "/files/%62ig",
        "/files//big",
        "/files/x/../big",
        "/Files/big",
    ];
    assert_eq!(sent.map(|path| get(&costs, path)), [1; 4]);
}

#[test]
fn errors_name_the_remedy() {
    let why = |made: Result<RouteCosts, RouteCostsError>| made.unwrap_err().to_string();
    let new = RouteCosts::new;
    for path in [
        "",
        "search",
        "search/",
        "/search?q=",
        "/search#top",
        "https://host/",
    ] {
        let rejected = Err(RouteCostsError::Path(path.into()));
        assert_eq!(new().try_route(path, 1).map(drop), rejected);
        assert_eq!(new().try_prefix(path, 1).map(drop), rejected);
        assert_eq!(new().try_method(Method::GET, path, 1).map(drop), rejected);
    }
    assert_eq!(
        why(new().try_route("sea\nrch", 1)),
        r##"invalid path "sea\nrch": begin with "/", and leave out the query and "#", such as "/rch""##
    );
    assert_eq!(
        why(new().try_prefix("/files/{*rest}", 1)),
        concat!(
            r#"invalid prefix "/files/{*rest}": leave out "{", "}" and "*"; "#,
            r#"a prefix holds for all paths below it, such as "/files""#
        )
    );
    assert!(new().try_prefix("/files/*", 1).is_err());

    let all = || {
        let one = new().route("/a", 1).prefix("/a", 1);
        one.method(Method::GET, "/a", 1)
            .method(Method::HEAD, "/a", 1)
    };
    let twice = |entry: &str| format!("duplicate entry {entry:?}: keep one of them");
    assert_eq!(why(all().try_route("/a", 2)), twice("/a"));
    assert_eq!(why(all().try_prefix("/a", 2)), twice("prefix /a"));
    let again = all().try_method(Method::HEAD, "/a", 2);
    assert_eq!(why(again), twice("HEAD /a"));
}

#[test]
fn error_shows_the_path_that_was_probably_meant() {
    for (text, path) in [
        ("", "/"),
        ("search", "/search"),
        ("search/", "/search/"),
        ("/search?q=/x", "/search"),
        ("/search#top", "/search"),
        ("POST /search", "/search"),
        ("https://host/a/b?c", "/a/b"),
        ("https://host", "/"),
    ] {
        assert_eq!(path_of(text), path, "{text}");
        assert!(RouteCosts::new().try_route(&path_of(text), 1).is_ok());
    }
    for (text, prefix) in [
        ("/files/{*rest}", "/files"),
        ("/files/a*", "/files"),
        ("/{id}/x", "/"),
        ("/*", "/"),
    ] {
        assert_eq!(prefix_of(text), prefix, "{text}");
        assert!(RouteCosts::new().try_prefix(prefix_of(text), 1).is_ok());
    }
}

#[test]
#[should_panic(expected = "duplicate entry \"POST /a\": keep one of them")]
fn invalid_setting_fails_at_setup() {
    let costs = RouteCosts::new().method(Method::POST, "/a", 1);
    let _ = costs.method(Method::POST, "/a", 2);
}

#[test]
fn unmatched_routes_are_listed_in_order_of_declaration() {
    let costs = RouteCosts::new()
        .method(Method::POST, "/serach", 5)
        .prefix("/assets", 0)
        .route("/a", Cost::each([1, 2]));
    let layer = costs.clone();
    get(&layer, "/a");
    get(&layer, "/search");
    assert_eq!(costs.unmatched(), ["POST /serach", "prefix /assets"]);
    assert_eq!(
        format!("{costs:?}"),
        "{POST /serach: RouteCost { cost: Cost(5), matched: false }, \
         prefix /assets: RouteCost { cost: Cost(0), matched: false }, \
         /a: RouteCost { cost: Cost([1, 2]), matched: true }, otherwise: Cost(1)}"
    );
}

#[test]
fn extended_route_costs_share_their_match_marks() {
    let costs = RouteCosts::new().route("/a", 5);
    let more = costs.clone().route("/b", 6).otherwise(2);
    assert_eq!(["/a", "/b", "/c"].map(|path| get(&more, path)), [5, 6, 2]);
    assert!(costs.unmatched().is_empty() && more.unmatched().is_empty());
    assert_eq!(["/a", "/b", "/c"].map(|path| get(&costs, path)), [5, 1, 1]);
}
