//! The page at `/docs`.

use headroom_test_support::server::{Options, Server};

use crate::BINARY;

#[tokio::test]
async fn the_page_and_its_files_come_from_this_server_alone() {
    let server = Server::start(Options::new(BINARY));
    for (path, media_type) in [
        ("/docs", "text/html; charset=utf-8"),
        ("/docs/explorer.css", "text/css; charset=utf-8"),
        ("/docs/explorer.js", "text/javascript; charset=utf-8"),
    ] {
        let response = server.get(path).await;
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(response.headers()["content-type"], media_type);
        let policy = response.headers()["content-security-policy"]
            .to_str()
            .unwrap();
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        let text = response.text().await.unwrap();
        for outside in ["http://", "https://", "src=\"//", "style=", "onclick="] {
            assert!(!text.contains(outside), "{path} has {outside}");
        }
    }
}
