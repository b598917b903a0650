//! Who the hosts of the test bed are to each other: an authority of its own for each run.

use crate::guest::Guest;
use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::fs;
use std::path::Path;

/// Where a guest finds its identity.
const FOLDER: &str = "/run/soft-roce/identity";

/// Issues certificates.
pub struct Authority {
    roots: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one, which nobody else trusts.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new([])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let roots = params.self_signed(&key)?.pem();
        Ok(Self { roots, issuer: Issuer::new(params, key) })
    }

    /// Gives a guest the identity of a node with its name; says where the guest finds it.
    ///
    /// # Errors
    /// Its folder can't be written.
    pub fn introduce(&self, guest: &Guest) -> Result<&'static str> {
        self.write(guest.name(), &guest.share().join("identity"))?;
        Ok(FOLDER)
    }

    /// Writes an identity into a folder.
    ///
    /// # Errors
    /// The folder can't be written.
    pub fn write(&self, name: &str, folder: &Path) -> Result<()> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new([name.to_owned()])?.signed_by(&key, &self.issuer)?;
        fs::create_dir_all(folder)?;
        fs::write(folder.join("certificate.pem"), certificate.pem())?;
        fs::write(folder.join("key.pem"), key.serialize_pem())?;
        fs::write(folder.join("roots.pem"), &self.roots)?;
        Ok(())
    }
}
