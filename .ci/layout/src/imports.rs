//! Which file imports from which.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::Visit;
use syn::{ItemMod, ItemUse};

use crate::module::{Module, ModulePath, Modules, leaves};

/// For each file those that it imports from, itself left out.
pub type Imports = BTreeMap<PathBuf, BTreeSet<PathBuf>>;

/// The imports of all files of a crate: `use` lines and paths in code. What a module only passes on under its own
/// name is no import of it, but one of whoever uses that name.
pub fn imports(modules: &Modules) -> Imports {
    let mut imports = Imports::new();
    for module in modules.iter() {
        let own = imports.entry(module.file.clone()).or_default();
        for target in named(module) {
            let file = modules.file_of(&target);
            own.extend(file.filter(|file| *file != module.file).map(Path::to_owned));
        }
    }
    imports
}

/// All paths of its own crate that a module names.
fn named(module: &Module) -> Vec<ModulePath> {
    let mut visitor = PathVisitor {
        module,
        paths: vec![],
    };
    for item in &module.items {
        visitor.visit_item(item);
    }
    visitor.paths
}

struct PathVisitor<'a> {
    module: &'a Module,
    paths: Vec<ModulePath>,
}

impl<'ast> Visit<'ast> for PathVisitor<'_> {
    // Modules within a module are looked at on their own.
    fn visit_item_mod(&mut self, _: &'ast ItemMod) {}

    fn visit_item_use(&mut self, import: &'ast ItemUse) {
        let names = leaves(&import.tree).into_iter().map(|(names, _)| names);
        let paths = names.filter_map(|names| self.module.absolute(&names));
        self.paths.extend(paths);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: ModulePath = (path.segments.iter())
            .map(|segment| segment.ident.to_string())
            .collect();
        if names.len() > 1 {
            self.paths.extend(self.module.absolute(&names));
        }
        syn::visit::visit_path(self, path);
    }
}
