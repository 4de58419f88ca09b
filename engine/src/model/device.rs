//! The name of the device that a model runs on.

use std::fmt;
use std::str::FromStr;

#[cfg(feature = "mistralrs")]
use candle_core::Device;

use crate::error::LoadError;

/// `cpu`, `cuda` or `metal`. A number selects one of several GPUs, as in `cuda:1`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// The processor
    #[default]
    Cpu,
    /// An NVIDIA GPU; needs the feature `cuda`
    Cuda(usize),
    /// An Apple GPU; needs the feature `metal`
    Metal(usize),
}

impl DeviceName {
    /// Checks that the program was built with support for the device.
    ///
    /// # Errors
    /// It was not; the error names the feature.
    pub(super) fn check_built_in(self) -> Result<(), LoadError> {
        let (feature, is_built_in) = match self {
            Self::Cpu => return Ok(()),
            Self::Cuda(_) => ("cuda", cfg!(feature = "cuda")),
            Self::Metal(_) => ("metal", cfg!(feature = "metal")),
        };
        if is_built_in {
            Ok(())
        } else {
            Err(self.unusable(format!(
                "this program was built without --features {feature}"
            )))
        }
    }

    /// Opens the device.
    ///
    /// # Errors
    /// The machine has no device with that number.
    #[cfg(feature = "mistralrs")]
    pub(super) fn open(self) -> Result<Device, LoadError> {
        let opened = match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(number) => Device::new_cuda(number),
            Self::Metal(number) => Device::new_metal(number),
        };
        opened.map_err(|source| self.unusable(source.to_string()))
    }

    fn unusable(self, reason: String) -> LoadError {
        LoadError::Device {
            device: self.to_string(),
            reason,
        }
    }
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let (kind, number) = name.split_once(':').unwrap_or((name, "0"));
        match (kind, number.parse()) {
            ("cpu", _) if kind == name => Ok(Self::Cpu),
            ("cuda", Ok(number)) => Ok(Self::Cuda(number)),
            ("metal", Ok(number)) => Ok(Self::Metal(number)),
            _ => Err(format!(
                "{name:?} is none of cpu, cuda, metal, or a GPU by its number as in cuda:1"
            )),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Metal(number) => write!(f, "metal:{number}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_candle_numbers_them() {
        assert_eq!("cpu".parse(), Ok(DeviceName::Cpu));
        assert_eq!("cuda".parse(), Ok(DeviceName::Cuda(0)));
        assert_eq!("cuda:1".parse(), Ok(DeviceName::Cuda(1)));
        for wrong in ["gpu", "cpu:1", "cuda:", "cuda:x", ""] {
            assert!(wrong.parse::<DeviceName>().is_err(), "{wrong}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_device_that_was_not_built_in_is_refused_with_the_feature() {
        let error = DeviceName::Cuda(0)
            .check_built_in()
            .unwrap_err()
            .to_string();
        assert!(error.contains("--features cuda"), "{error}");
    }
}
