//! The size of a scrape does not follow the number of models on disk.

use headroom_test_support::models::Models;
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;
use headroom_test_support::wait::{DEADLINE, wait_for_async};

use crate::BINARY;
use crate::exposition::{families, series};

const MODELS: usize = 500;

/// Series of a server without loaded models, at most: some 150 of pools, 170 of actors, 150 of statuses, 200 of others.
const SERIES_MAX: usize = 1000;

#[tokio::test]
async fn a_scrape_with_500_known_models_is_as_small_as_with_none() {
    let models = Models::new();
    models.add("m0", 1, torchscript::affine);
    let file = models.version("m0", 1).join("model.pt");
    for number in 1..MODELS {
        models.add(&format!("m{number}"), 1, |path| {
            std::fs::hard_link(&file, path)
        });
    }
    let server = Server::start(models.options(BINARY));
    let metrics = wait_for_async(DEADLINE, || async {
        // Beside the models, the zygote and the upload folder are resources.
        // Asking for the index lets the server look at the folder.
        let known = server.index().await.len();
        let metrics = server.metrics().await;
        let cold = format!("headroom_lazy_resources{{phase=\"cold\"}} {}", MODELS + 2);
        let all = known == MODELS && metrics.lines().any(|line| line == cold);
        all.then_some(metrics.clone()).ok_or((known, metrics))
    })
    .await;
    let series = series(&families(&metrics));
    assert!(series < SERIES_MAX, "{series} series");
    assert!(metrics.len() < SERIES_MAX * 100, "{} bytes", metrics.len());
}
