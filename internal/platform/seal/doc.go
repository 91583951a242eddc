// Package seal keeps secrets secret: Secret does not print, and Keys seals what is stored (AES-256-GCM, NIST SP 800-38D,
// with a random 96-bit nonce). A sealed value opens only for the purpose it was sealed for and only while its key is
// listed; damage is an error, never a wrong plaintext. Signer authenticates values that are stored in the clear.
package seal
