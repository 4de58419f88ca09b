//! The modules of a crate, as its files declare them.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use syn::{Attribute, Item, ItemUse, UseTree, Visibility};

/// Names from the crate's root down to a module or an item; empty for the root.
pub type ModulePath = Vec<String>;

/// A module. An inline one has the file of the module around it.
pub struct Module {
    /// Where it stands in the crate
    pub path: ModulePath,
    /// The file that holds it
    pub file: PathBuf,
    /// Its items, test modules left out
    pub items: Vec<Item>,
    /// The modules that it declares
    pub children: HashSet<String>,
    /// The names of what it defines itself
    pub defined: HashSet<String>,
    /// What it passes on under a name of its own
    pub reexports: HashMap<String, ModulePath>,
    /// Modules of which it passes on everything
    pub globs: Vec<ModulePath>,
}

/// All modules of a crate, by where they stand.
pub struct Modules {
    by_path: HashMap<ModulePath, Module>,
}

impl Modules {
    /// Reads a crate from its root file, such as `src/lib.rs`.
    ///
    /// # Errors
    /// A file cannot be read or is no Rust, or a module's file is not there.
    pub fn read(root: &Path) -> Result<Self> {
        let mut modules = Self {
            by_path: HashMap::new(),
        };
        let directory = root.parent().unwrap_or(Path::new("."));
        modules.read_file(vec![], root, directory)?;
        Ok(modules)
    }

    /// All modules, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Module> {
        self.by_path.values()
    }

    /// The file that defines what a path names, re-exports followed; none where it is not of this crate.
    pub fn file_of(&self, path: &[String]) -> Option<&Path> {
        self.defining(path, 0).map(|module| module.file.as_path())
    }

    fn defining(&self, path: &[String], depth: usize) -> Option<&Module> {
        // A re-export that leads back to itself is no Rust; the bound keeps the walk finite all the same.
        if depth > 16 {
            return None;
        }
        let mut module = self.by_path.get(&vec![])?;
        for (at, name) in path.iter().enumerate() {
            if module.children.contains(name) {
                module = self.by_path.get(&path_to(&module.path, name))?;
            } else if module.defined.contains(name) {
                return Some(module);
            } else if let Some(target) = module.reexports.get(name) {
                let rest = path[at + 1..].iter();
                let target: ModulePath = target.iter().chain(rest).cloned().collect();
                return self.defining(&target, depth + 1);
            } else {
                return (module.globs.iter()).find_map(|glob| {
                    let target: ModulePath = glob.iter().chain(&path[at..]).cloned().collect();
                    let found = self.defining(&target, depth + 1)?;
                    found.defined.contains(target.last()?).then_some(found)
                });
            }
        }
        Some(module)
    }

    /// Reads a module's file. `directory` is where the files of its children lie.
    fn read_file(&mut self, path: ModulePath, file: &Path, directory: &Path) -> Result<()> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        let parsed =
            syn::parse_file(&text).with_context(|| format!("cannot parse {}", file.display()))?;
        self.take_items(path, parsed.items, file, directory)
    }

    fn take_items(
        &mut self,
        path: ModulePath,
        items: Vec<Item>,
        file: &Path,
        directory: &Path,
    ) -> Result<()> {
        let mut module = Module {
            path,
            file: file.to_owned(),
            items: vec![],
            children: HashSet::new(),
            defined: HashSet::new(),
            reexports: HashMap::new(),
            globs: vec![],
        };
        let mut uses = Vec::new();
        for item in items {
            match item {
                Item::Mod(inner) if is_for_tests(&inner.attrs) => {}
                Item::Mod(inner) => {
                    let name = inner.ident.to_string();
                    let path = path_to(&module.path, &name);
                    module.children.insert(name.clone());
                    let inner_directory = directory.join(&name);
                    if let Some((_, items)) = inner.content {
                        self.take_items(path, items, file, &inner_directory)?;
                    } else if let Some(name) = path_attribute(&inner.attrs) {
                        let file = file.parent().unwrap_or(directory).join(name);
                        self.read_file(path, &file, &inner_directory)?;
                    } else {
                        let flat = directory.join(format!("{name}.rs"));
                        let nested = inner_directory.join("mod.rs");
                        let file = [flat, nested].into_iter().find(|file| file.exists());
                        let Some(file) = file else {
                            bail!("{}: module {name} has no file", directory.display());
                        };
                        self.read_file(path, &file, &inner_directory)?;
                    }
                }
                Item::Use(import) if !matches!(import.vis, Visibility::Inherited) => {
                    uses.push(import);
                }
                item => {
                    if let Some(name) = name_of(&item) {
                        module.defined.insert(name);
                    }
                    module.items.push(item);
                }
            }
        }
        for import in &uses {
            module.pass_on(import);
        }
        self.by_path.insert(module.path.clone(), module);
        Ok(())
    }
}

impl Module {
    /// The path from the crate's root of what a path in this module names; none where it leads out of the crate.
    pub fn absolute(&self, names: &[String]) -> Option<ModulePath> {
        let (first, rest) = names.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some(self.path.iter().chain(rest).cloned().collect()),
            "super" => {
                let mut base = self.path.clone();
                base.pop()?;
                let mut rest = rest;
                while let Some((name, behind)) = rest.split_first()
                    && name == "super"
                {
                    base.pop()?;
                    rest = behind;
                }
                Some(base.iter().chain(rest).cloned().collect())
            }
            name if self.children.contains(name) => {
                Some(self.path.iter().chain(names).cloned().collect())
            }
            _ => None,
        }
    }

    fn pass_on(&mut self, import: &ItemUse) {
        for (names, alias) in leaves(&import.tree) {
            let Some(target) = self.absolute(&names) else {
                continue;
            };
            match alias {
                Some(alias) => {
                    self.reexports.insert(alias, target);
                }
                None => self.globs.push(target),
            }
        }
    }
}

/// What a `use` names: each path with the name that it gets here, none for `*`.
pub fn leaves(tree: &UseTree) -> Vec<(ModulePath, Option<String>)> {
    match tree {
        UseTree::Path(path) => {
            let below = leaves(&path.tree).into_iter();
            let below = below.map(|(mut names, alias)| {
                names.insert(0, path.ident.to_string());
                (names, alias)
            });
            below.collect()
        }
        UseTree::Name(name) if name.ident == "self" => vec![(vec![], None)],
        UseTree::Name(name) => {
            let name = name.ident.to_string();
            vec![(vec![name.clone()], Some(name))]
        }
        UseTree::Rename(rename) => vec![(
            vec![rename.ident.to_string()],
            Some(rename.rename.to_string()),
        )],
        UseTree::Glob(_) => vec![(vec![], None)],
        UseTree::Group(group) => group.items.iter().flat_map(leaves).collect(),
    }
}

fn path_to(path: &[String], name: &str) -> ModulePath {
    path.iter().cloned().chain([name.to_owned()]).collect()
}

fn name_of(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && (attribute.parse_args::<syn::Path>()).is_ok_and(|path| path.is_ident("test"))
    })
}

fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| {
        let pair = attribute.meta.require_name_value().ok()?;
        let syn::Expr::Lit(value) = &pair.value else {
            return None;
        };
        match &value.lit {
            syn::Lit::Str(text) if pair.path.is_ident("path") => Some(text.value()),
            _ => None,
        }
    })
}
