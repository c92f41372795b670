//! Published weights of quality metrics: one file without a description of the network.

use std::path::Path;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use spire_model::weights::{Tensors, read_config};

/// Opens a weights file, or a folder with weights and, for a network with other sizes than the published one, a
/// `config.json`. `published` is the URL of the weights, for errors.
///
/// # Errors
/// The weights are missing or unreadable; the message names the file.
pub(crate) fn open<Config: DeserializeOwned + Default>(path: &Path, published: &str) -> Result<(Config, Tensors)> {
    let config = match path.join("config.json").is_file() {
        true => read_config(path, "config.json")?,
        false => Config::default(),
    };
    let tensors = Tensors::at(path);
    Ok((config, tensors.with_context(|| format!("the weights that are needed are published as {published}"))?))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use burn::module::Module;
    use spire_model::weights::{Formula, parameters};
    use tempfile::TempDir;

    use super::*;

    /// The shapes of a network's tensors by their names in a checkpoint.
    pub type Shapes = BTreeMap<String, Vec<usize>>;

    pub fn shapes<M: Module>(module: &M) -> Shapes {
        parameters(module).into_iter().map(|parameter| (parameter.name, parameter.shape)).collect()
    }

    /// A folder with this `config.json` and with weights by formula.
    pub fn folder(config: &str, tensors: Shapes) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let formula = Formula { formula: "splitmix64".into(), seed: 7, gain: 1.0, tensors };
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let weights = serde_json::to_vec(&formula).unwrap();
        std::fs::write(folder.path().join("model.formula.json"), weights).unwrap();
        folder
    }

    /// Checks that `load` accepts these tensors and names each missing, misshapen or unexpected one.
    pub fn assert_each_is_needed<T: std::fmt::Debug>(
        config: &str,
        tensors: &Shapes,
        load: impl Fn(&Path) -> Result<T>,
    ) {
        load(folder(config, tensors.clone()).path()).unwrap();
        let message = |tensors| format!("{:#}", load(folder(config, tensors).path()).unwrap_err());
        for name in tensors.keys().step_by(7) {
            let mut fewer = tensors.clone();
            fewer.remove(name);
            assert!(message(fewer).contains("1 missing"), "{name}");
            let mut odd = tensors.clone();
            odd.entry(name.clone()).and_modify(|shape| shape.push(2));
            assert!(message(odd).contains(name.rsplit('.').next().unwrap()), "{name}");
        }
        let mut more = tensors.clone();
        more.insert("surprise.weight".into(), vec![3]);
        assert!(message(more).contains("surprise.weight"));
    }

    #[test]
    fn the_prefix_of_data_parallel_training_is_removed() {
        let folder = folder("{}", Shapes::from([("module.a.weight".into(), vec![2]), ("b.bias".into(), vec![2])]));
        for path in [folder.path().to_owned(), folder.path().join("model.formula.json")] {
            let (_, tensors) = open::<Shapes>(&path, "").unwrap();
            assert_eq!(tensors.iter().map(|tensor| tensor.name.as_str()).collect::<Vec<_>>(), ["a.weight", "b.bias"]);
        }
    }

    #[test]
    fn the_error_names_an_unreadable_file() {
        let message = |path: &Path| format!("{:#}", open::<Shapes>(path, "https://x.org/a.pth").unwrap_err());
        let broken = folder("{", Shapes::from([("a".into(), vec![1])]));
        assert!(message(broken.path()).contains("config.json"));
        assert!(message(&broken.path().join("musiq.pth")).contains("musiq.pth"));
        let nothing = message(tempfile::tempdir().unwrap().path());
        assert!(nothing.contains("https://x.org/a.pth") && nothing.contains("there are no weights in"), "{nothing}");
    }
}
