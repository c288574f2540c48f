// Every crate that is linked in must come under a licence that MIT software may carry.
import { execFileSync } from 'node:child_process';

const allowed = new Set([
    'MIT', 'MIT-0', 'Apache-2.0', 'Apache-2.0 WITH LLVM-exception', 'BSD-2-Clause', 'BSD-3-Clause', 'ISC', 'Zlib',
    'Unicode-3.0', 'CC0-1.0', '0BSD', 'BSL-1.0', 'Unlicense', 'CDLA-Permissive-2.0', 'NCSA',
]);
const text = execFileSync('cargo', ['metadata', '--format-version', '1', '--locked'], { maxBuffer: 1 << 28 });
const { packages } = JSON.parse(text);

// An SPDX expression holds if one side of each OR, and every side of each AND, is allowed.
const holds = expression =>
    expression
        .replaceAll('/', ' OR ')
        .replaceAll(/[()]/g, ' ')
        .split(' AND ')
        .every(part => part.split(' OR ').some(licence => allowed.has(licence.trim())));

const refused = packages.filter(({ license }) => !license || !holds(license));
for (const { name, version, license } of refused) console.error(`${name} ${version}: ${license ?? 'no licence'}`);
if (refused.length) process.exit(1);
console.log(`licences: ${packages.length} crates, all allowed`);
