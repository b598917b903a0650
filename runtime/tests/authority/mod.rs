//! An authority that issues certificates for a test.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use shard_runtime::secure::Identity;

pub(crate) struct Authority {
    pub(crate) roots: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let roots = params.self_signed(&key).unwrap().pem();
        Self { roots, issuer: Issuer::new(params, key) }
    }

    /// A certificate and its key, in PEM.
    pub(crate) fn issue(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> [String; 2] {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        [params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem()]
    }

    pub(crate) fn identity(&self, name: &str) -> Identity {
        let [certificate, key] = self.issue(&[name], |_| {});
        Identity::from_pem(certificate.as_bytes(), key.as_bytes(), self.roots.as_bytes()).unwrap()
    }
}
