<#
.SYNOPSIS
Starts the three services of ShopSphere.

.DESCRIPTION
Finds Python 3.11 or newer and hands over to start_all_services.py, which sets everything up and
starts the services. All arguments are passed on. Ctrl-C ends all three.

.EXAMPLE
.\start_all_services.ps1

.EXAMPLE
.\start_all_services.ps1 --reload
#>

$script = Join-Path $PSScriptRoot 'start_all_services.py'
if (Get-Command py -ErrorAction SilentlyContinue) {
    & py -3 $script @args
} elseif (Get-Command python -ErrorAction SilentlyContinue) {
    & python $script @args
} else {
    Write-Host 'ShopSphere needs Python 3.11 or newer, and there is none here.'
    Write-Host 'Get it from https://www.python.org/downloads/ and run this script again.'
    exit 1
}
exit $LASTEXITCODE
