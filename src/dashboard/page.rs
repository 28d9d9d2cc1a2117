//! The page at `/`: one HTML file with its style and its script, joined when the server is compiled.
//!
//! It loads nothing else. The policy that is sent with it allows exactly this style and this script, by
//! their hashes, and requests to this server. It also forbids to make markup of texts, so that a name that
//! contains markup cannot become an element.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};

const STYLE: &str = include_str!("page/style.css");

const SCRIPT: &str = concat!(
    include_str!("page/format.js"),
    include_str!("page/elements.js"),
    include_str!("page/table.js"),
    include_str!("page/actions.js"),
    include_str!("page/budget.js"),
    include_str!("page/timeline.js"),
    include_str!("page/resources.js"),
    include_str!("page/tus.js"),
    include_str!("page/sending.js"),
    include_str!("page/uploads.js"),
    include_str!("page/chains.js"),
    include_str!("page/parts.js"),
    include_str!("page/live.js"),
);

/// The page as it is served.
pub struct Page {
    /// The HTML.
    pub html: String,
    /// The value of `Content-Security-Policy`.
    pub policy: String,
    /// The value of `ETag`, without quotes.
    pub tag: String,
}

impl Page {
    fn new() -> Self {
        let html = include_str!("page/index.html")
            .replace("/*STYLE*/", STYLE)
            .replace("/*SCRIPT*/", SCRIPT);
        let policy = format!(
            "default-src 'none'; script-src '{}'; style-src '{}'; img-src data:; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
             require-trusted-types-for 'script'; trusted-types 'none'",
            source_hash(SCRIPT),
            source_hash(STYLE)
        );
        let tag = STANDARD.encode(&digest(&SHA256, html.as_bytes()).as_ref()[..15]);
        Self { html, policy, tag }
    }
}

/// The page. It is made at its first use.
pub static PAGE: LazyLock<Page> = LazyLock::new(Page::new);

/// The hash by which a policy allows an inline script or style.
fn source_hash(source: &str) -> String {
    format!(
        "sha256-{}",
        STANDARD.encode(digest(&SHA256, source.as_bytes()))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is between two texts of the page.
    fn between<'a>(html: &'a str, before: &str, after: &str) -> &'a str {
        let (_, rest) = html.split_once(before).unwrap_or_default();
        rest.split_once(after).unwrap_or_default().0
    }

    #[test]
    fn the_policy_allows_exactly_the_script_and_the_style_that_are_in_the_page() {
        let Page { html, policy, .. } = &*PAGE;
        let script = between(html, "<script type=\"module\">", "</script>");
        let style = between(html, "<style>", "</style>");
        assert!(script.ends_with("setInterval(showAge, 1000);\n"));
        for source in [script, style] {
            assert!(policy.contains(&format!("'{}'", source_hash(source))));
        }
        assert_eq!(html.matches("<script").count(), 1);
        assert_eq!(html.matches("<style").count(), 1);
    }

    #[test]
    fn the_page_loads_nothing_from_elsewhere() {
        let html = &PAGE.html;
        for outside in ["https://", "src=", "@import", "url("] {
            assert!(!html.contains(outside), "{outside}");
        }
        // The name of SVG's elements is no address.
        assert_eq!(html.matches("http://").count(), 1);
    }

    #[test]
    fn the_script_makes_no_markup_of_texts() {
        for maker in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ] {
            assert!(!SCRIPT.contains(maker), "{maker}");
        }
    }
}
