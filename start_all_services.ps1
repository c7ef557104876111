<#
.SYNOPSIS
Starts the three services of ShopSphere, on Windows PowerShell 5.1 and PowerShell 7.

.DESCRIPTION
Finds a Python from 3.11 to 3.14 and hands over to start_all_services.py, which sets everything up and
starts the services. All arguments are passed on, and its exit status is passed back. Ctrl-C stops
all three services.

The arguments are those of start_all_services.py: --demo adds a dozen products to an empty shop,
--host takes the address to listen on, --reload restarts the services when a Python file changes,
--help shows them all.

.EXAMPLE
.\start_all_services.ps1
Starts the shop for this machine only.

.EXAMPLE
.\start_all_services.ps1 --demo
Starts it with products to try out.

.EXAMPLE
.\start_all_services.ps1 --host 0.0.0.0
Lets other machines in.

.LINK
https://www.python.org/downloads/
#>

# A caller's settings might turn Python's output or exit status into an error.
$ErrorActionPreference = 'Continue'
$PSNativeCommandUseErrorActionPreference = $false

$script = Join-Path $PSScriptRoot 'start_all_services.py'
$isRight = 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))'
$candidates = @('py', '-3'), @('python'), @('python3'),
    @('py', '-3.14'), @('py', '-3.13'), @('py', '-3.12'), @('py', '-3.11')

# Each is tried: every new Windows has a python.exe that only opens the Microsoft Store.
foreach ($candidate in $candidates) {
    $command = $candidate[0]
    $options = @($candidate | Select-Object -Skip 1)
    if (-not (Get-Command $command -CommandType Application -ErrorAction SilentlyContinue)) {
        continue
    }
    $global:LASTEXITCODE = 1
    & $command @options -c $isRight *> $null
    if ($LASTEXITCODE -eq 0) {
        & $command @options $script @args
        exit $LASTEXITCODE
    }
}

Write-Host 'ShopSphere needs Python 3.11 to 3.14, but none was found.'
Write-Host 'Get it from https://www.python.org/downloads/ and run this script again.'
exit 1
